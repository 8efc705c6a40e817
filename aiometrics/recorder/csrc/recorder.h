/* The data flow. A task steps its TracedCoroutine, which steps the coroutine and tells the Recorder
   of the loop when a segment begins and how it ends:

       task --send--> Traced --recorder_resume--> wait or start delay ends: histogram, list of suspended tasks
                        |----send--> coroutine
                        '--recorder_suspend / recorder_end--> yield point found, segment ends: histogram, list, page

   Everything is written straight into the page. Python is called once per new place
   (aiometrics/recorder/labels.py), for a clock other than the system's, and after a blocking
   segment. The twin in Python, aiometrics/recorder/recorder.py, is the specification. */
#ifndef AIOMETRICS_RECORDER_H
#define AIOMETRICS_RECORDER_H

#include <Python.h>
#include <stdint.h>

#include "constants.h"
#include "page.h"
#include "table.h"

typedef enum { AT_RETURN, AT_RAISE, AT_EAGER_CHILD, PSEUDO_POINTS } PseudoPoint;

typedef struct Recorder Recorder;
typedef struct Scope Scope;
typedef struct Target Target;

typedef struct Traced {
    PyObject_HEAD
    PyObject *coro;
    Recorder *recorder;
    PyObject *weakrefs;
    struct Traced *outer;          /* whose segment this one interrupts; borrowed, as it is on the C stack */
    Scope *scope;                  /* the request that its time belongs to, or NULL */
    struct Traced *older, *newer;  /* the tasks suspended at the same point before and after it; borrowed */
    int64_t number;       /* one for each task, from 1 on; 0 for callbacks */
    int64_t creator;      /* the number of the task that created it, 0 if no task did */
    int64_t created_ns;
    int64_t active_ns;
    int64_t since_ns;     /* RUNNING: when the segment began, moved up by the time of its eager children; SUSPENDED: since when */
    int64_t paused_ns;    /* when the eager child that runs now began */
    int64_t counted_ns;   /* of the segment, what readers counted under (running) */
    int64_t divided_ns;   /* of the segment, what does not belong to `scope`: it was charged already, or belongs to none */
    int32_t record;
    int32_t point;
    State state; /* OFFERED: it is not known yet whether there will be a task */
} Traced;

/* The tasks suspended at one point, in the order in which they began to wait. */
typedef struct {
    Traced *oldest, *newest;
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
    int32_t (*pseudo)[PSEUDO_POINTS];
    Table records; /* code of a root coroutine -> its record */
    Table origins; /* code -> its CodeOrigin */
    Table hops;    /* type -> how the await chain goes on */
    Table transports; /* type -> whether it may be a transport of asyncio */
    Table points;  /* record, code, instruction and callee -> yield point */
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

PyObject *recorder_trace(Recorder *self, PyObject *coro);
void recorder_admit(Recorder *self, Traced *traced);
void recorder_abandon(Traced *traced);
/* These return -1 with an exception only if an interrupt of the application came while Python ran
   for us. recorder_resume and recorder_enter_callback return whether the step is timed at all. */
int recorder_resume(Recorder *self, Traced *traced);
int recorder_suspend(Recorder *self, Traced *traced, PyObject *yielded);
int recorder_end(Recorder *self, Traced *traced, Status status);
int recorder_enter_callback(Recorder *self, Traced *frame);
int recorder_leave_callback(Recorder *self, Traced *frame, PyObject *callback);
void recorder_lose(Recorder *self, Traced *traced);

/* Begins to record gaps, with the yield points of events and of the rest; -1 with an exception. */
int recorder_open_gaps(Recorder *self, const int32_t *points, void (*poll_is_over)(void *watch), void *watch);
/* The phase of the turn that ends now, and the one that begins at `since`. */
void recorder_gap_phase(Recorder *self, GapPhase phase, int64_t since);
Status recorder_status(void);

/* Handles an error of ours, in flight or not: see recorder.c. -1 with an exception if it was an
   interrupt. */
int recorder_fail(Recorder *self);

/* Where waits of requests at a yield point are added; -1 with an exception. */
int32_t recorder_request_wait(Recorder *self, int32_t request, int32_t point);

/* The record number in `answer`, which is released; -1 with an exception if it is not a number from
   0 to `most`. */
int32_t number_within(PyObject *answer, Py_ssize_t most);

PyObject *traced_new(PyObject *coro, Recorder *recorder, int32_t record, int64_t created_ns);

/* Finds the yield point of a suspended coroutine: locate.c. -1 with an exception. */
int32_t locate(Recorder *self, Traced *traced, PyObject *yielded);

/* The yield point that stands for a callback: callback.c. -1 with an exception. */
int callback_init(void);
int32_t locate_callback(Recorder *self, PyObject *callback);
int locate_init(void);

#endif
