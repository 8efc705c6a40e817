/* The data flow. A task steps its coroutine through a slot of its type, which is hooked (slot.c) and
   tells the Recorder of the loop when a segment begins and how it ends:

       task --am_send--> slot.c --recorder_resume--> wait or start delay ends: histogram, list of suspended tasks
                           |----send--> coroutine
                           '--recorder_suspend / recorder_end--> yield point found, segment ends: histogram, list, page

   Everything is written straight into the page. Python is called once per new place
   (aiometrics/recorder/labels.py), for a clock other than the system's, and after a blocking
   segment. The twin in Python, aiometrics/recorder/recorder.py, is the specification. */
#ifndef AIOMETRICS_RECORDER_H
#define AIOMETRICS_RECORDER_H

#include <Python.h>
#include <stdint.h>

#include "chains.h"
#include "constants.h"
#include "page.h"
#include "table.h"

typedef enum { AT_RETURN, AT_RAISE, AT_EAGER_CHILD, PSEUDO_POINTS } PseudoPoint;

typedef struct Recorder Recorder;
typedef struct Scope Scope;
typedef struct Target Target;

/* What is known of a task: a record in the table of roots (roots.h), or a part of the wrapper of a
   root that is no built-in coroutine (traced.c). */
typedef struct Traced {
    PyObject *coro;     /* borrowed from the task, or from the wrapper's reference */
    Recorder *recorder; /* borrowed as well: a recorder removes its records before it goes */
    Scope *scope;       /* the request that its time belongs to, or NULL */
    union {
        struct Traced *outer; /* RUNNING: whose segment this one interrupts; borrowed, as its step is on the C stack */
        struct Traced *older; /* SUSPENDED: the task suspended at the same point before it; borrowed */
    };
    union {
        int64_t paused_ns;    /* RUNNING: when the eager child that runs now began */
        struct Traced *newer; /* SUSPENDED: the task suspended at the same point after it; borrowed */
    };
    int64_t number;       /* one for each task, from 1 on; 0 for callbacks */
    int64_t creator;      /* the number of the task that created it, 0 if no task did, or none is known */
    int64_t created_ns;   /* if it is adopted, when it was found */
    int64_t active_ns;
    int64_t since_ns;     /* RUNNING: when the segment began, moved up by the time of its eager children; SUSPENDED: since when */
    int64_t counted_ns;   /* of the segment, what readers counted under (running) */
    int64_t divided_ns;   /* of the segment, what does not belong to `scope`: it was charged already, or belongs to none */
    uint64_t visited;     /* the bits of the points where a wait of it has ended */
    int32_t record;
    int32_t point;
    int32_t node;     /* SUSPENDED: of the chain of awaits */
    State state;      /* OFFERED: it is not known yet whether there will be a task */
    uint16_t steps;   /* how many steps on the C stack refer to it */
    uint8_t adopted;  /* it was running when it was found, so its creation is unknown */
    uint8_t orphaned; /* it is in no table any more: the last of its steps frees it */
} Traced;

/* The tasks suspended at one point, in the order in which they began to wait. */
typedef struct {
    Traced *oldest, *newest;
    uint64_t visit; /* the point's bit in what a task has visited; 0 as long as no wait has ended there */
} Waiting;

/* The time of a loop that no segment accounts for, where only the loop's turns tell of it. Each gap between two segments is shown as a
   segment in progress of (callback), so that a block there is seen; a row gets what a turn has of them. libuv_turns.c drives this, from
   the loop's thread and without the GIL. */
typedef enum { GAPS_OFF, GAPS_POLLING, GAPS_EVENTS, GAPS_REST, GAP_PHASES } GapPhase;

typedef struct {
    Traced *frame; /* stands for the gap in progress; NULL if gaps are not recorded at all */
    int64_t sum_ns; /* of the gaps in this phase of the turn */
    int32_t points[GAP_PHASES];
    GapPhase phase;
    void (*poll_is_over)(void *watch); /* called if a segment begins while the loop is thought to wait for events */
    void *watch;
    const PyObject *ready; /* the loop's queue, a deque, which lives as long as the loop; NULL if it is not known */
} Gaps;

struct Recorder {
    PyObject_HEAD
    PyObject *weakrefs;
    PyObject *page_object;
    PyObject *labels;
    PyObject *internal_errors;
    PyObject *clock;   /* NULL for the system's */
    PyObject *blocked; /* called after each blocking segment; NULL for none */
    Page page;
    Traced *current; /* whose segment is in progress */
    Waiting *waiting;
    uint8_t *visits; /* by coroutine, how many bits its points have taken, modulo their number */
    int32_t (*pseudo)[PSEUDO_POINTS];
    Table records; /* code of a root coroutine -> its record */
    Table origins; /* code -> its CodeOrigin */
    Table hops;    /* type -> how the await chain goes on */
    Table transports; /* type -> whether it may be a transport of asyncio */
    Table points;  /* record, code, instruction and callee -> yield point */
    Chains chains; /* chain of awaits -> yield point and node */
    Table request_waits; /* request and yield point -> where its waits are added */
    Gaps gaps;
    uint64_t draw;
    int64_t traced; /* how many tasks have been traced */
    int64_t ended_since_ns; /* when the segment that ended last began */
    int32_t ended_point;    /* the yield point where it ended */
    Target *target;         /* what samples it, or NULL; borrowed */
    int retired;
};

extern PyTypeObject *traced_type, *recorder_type;

int recorder_init_module(PyObject *module);
int traced_init_module(PyObject *module);

/* Offers a root to a task that is being constructed. A built-in coroutine is entered in the table of
   roots, and returned; anything else is returned in its wrapper, or as it is if it is not traced. A
   new reference; NULL with an exception if an interrupt of the application came meanwhile. */
PyObject *recorder_offer(Recorder *self, PyObject *coro);
/* The record of a running task whose creation nobody saw; or &roots_left_out. NULL if that failed,
   with an exception if it was an interrupt. */
Traced *recorder_adopt(Recorder *self, PyObject *coro);
/* Counts a task, now that it is there: one that starts eagerly is at its first step. */
void recorder_admit(Recorder *self, Traced *traced);
/* These return -1 with an exception only if an interrupt of the application came while Python ran
   for us. recorder_resume and recorder_enter_callback return whether the step is timed at all. */
int recorder_resume(Recorder *self, Traced *traced);
int recorder_suspend(Recorder *self, Traced *traced, PyObject *yielded);
int recorder_end(Recorder *self, Traced *traced, Status status);
int recorder_enter_callback(Recorder *self, Traced *frame);
int recorder_leave_callback(Recorder *self, Traced *frame, PyObject *callback);
void recorder_lose(Recorder *self, Traced *traced);

/* Begins to record gaps, with the yield points of events and of the rest, and the loop's queue; -1 with an exception. */
int recorder_open_gaps(Recorder *self, const int32_t *points, const PyObject *ready, void (*poll_is_over)(void *watch), void *watch);
/* The phase of the turn that ends now, and the one that begins at `since`. */
void recorder_gap_phase(Recorder *self, GapPhase phase, int64_t since);
Status recorder_status(void);

/* Handles an error of ours, in flight or not: see recorder.c. -1 with an exception if it was an
   interrupt. */
SELDOM int recorder_fail(Recorder *self);

/* Where waits of requests at a yield point are added; -1 with an exception. */
int32_t recorder_request_wait(Recorder *self, int32_t request, int32_t point);

/* The record number in `answer`, which is released; -1 with an exception if it is not a number from
   0 to `most`. */
int32_t number_within(PyObject *answer, Py_ssize_t most);

/* Stops a recorder for good. */
void recorder_retire(Recorder *self);

/* The wrapper of a root that is no built-in coroutine: traced.c. */
PyObject *traced_new(PyObject *coro, Recorder *recorder);
Traced *traced_record(PyObject *wrapper);

/* Finds the yield point of a suspended coroutine, and the node of its chain of awaits: locate.c. -1
   with an exception. */
int locate(Recorder *self, Traced *traced, PyObject *yielded, Place *place);

/* The yield point that stands for a callback: callback.c. -1 with an exception. */
int callback_init(void);
int32_t locate_callback(Recorder *self, PyObject *callback);
int locate_init(void);

#endif
