/* Request scopes, which add up what the tasks of one request take. The twin in Python,
   aiometrics/recorder/scope.py, is the specification. */
#ifndef AIOMETRICS_SCOPE_H
#define AIOMETRICS_SCOPE_H

#include "timeline.h"
#include "recorder.h"

typedef struct {
    int64_t segments;
    int64_t active_ns;
    int64_t wait_ns;
    int64_t blocking_ns;
    int32_t key;         /* a yield point, or the complement of where a part of a segment began, see scope.py */
    int32_t wait_record; /* where its waits are added when the scope is left; -1 if not known yet */
} Charge;

typedef struct Scope {
    PyObject_HEAD
    Recorder *recorder;  /* NULL until it is entered */
    struct Scope *outer; /* continues when this one is left */
    Traced *entered_in;  /* the task that entered it, borrowed: set to NULL when the task is over */
    Charge *charges;
    Timeline *timeline;    /* NULL unless one is kept */
    int64_t entered_ns;
    int32_t record;
    int32_t entered_in_record; /* of that task's coroutine, 0 if it was entered in no task */
    int32_t used, room; /* of charges */
    ScopeState state;
} Scope;

extern int scope_ever_entered;

int scope_init_module(PyObject *module);

/* Gives a task, at its first step, to the scope of its context. */
void scope_attach(Recorder *recorder, Traced *traced);
/* Removes a task that is over from its scopes. Returns the reference that it had, or NULL. */
Scope *scope_take(Traced *traced);
/* Does so and releases it, which may run Python. */
void scope_detach(Traced *traced);

/* Charges a segment of one of the tasks, or the scope's part of it, that ended at until_ns. It is
   background if the request is over. */
void scope_charge_segment(Scope *scope, const Traced *traced, int32_t key, int64_t segment_ns, int64_t until_ns);
/* Charges a wait of one of the tasks. */
void scope_charge_wait(Scope *scope, int32_t point, int64_t wait_ns);

#endif
