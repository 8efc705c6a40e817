/* What the tasks of one request take, charged to it as their segments and waits end: aiometrics/recorder/scope.py is the same in Python and the
   specification of it. */
#ifndef AIOMETRICS_SCOPE_H
#define AIOMETRICS_SCOPE_H

#include "timeline.h"
#include "recorder.h"

#define SCOPE_POINTS 64 /* places that are told apart within one request; the rest is (other) */
#define SCOPE_NESTED 64 /* scopes that are open around one another; beyond, the outermost is taken for one that nobody will leave */

typedef struct {
    int64_t segments;
    int64_t active_ns;
    int64_t wait_ns;
    int64_t blocking_ns;
    int32_t key;         /* a yield point, or ~record: a part of a segment of that coroutine */
    int32_t wait_record; /* where its waits are added when the scope is left, -1 if that is not known yet */
} Charge;

typedef struct Scope {
    PyObject_HEAD
    Recorder *recorder;  /* NULL until it is entered */
    struct Scope *outer; /* which goes on when this one is left */
    Traced *entered_in;  /* the task that entered it; NULL once that is over, which it is told, so that this is no reference */
    Charge *charges;
    Timeline *timeline;    /* NULL unless it is kept */
    int64_t entered_ns;
    int32_t record;
    int32_t used, room; /* of charges */
    enum { SCOPE_NEW, SCOPE_OPEN, SCOPE_OVER, SCOPE_LEFT } state;
} Scope;

extern int scope_ever_entered;

int scope_init_module(PyObject *module);

/* At the first step of a task: it belongs to the scope of its context. */
void scope_attach(Recorder *recorder, Traced *traced);
/* The task is over. May run Python. */
void scope_detach(Traced *traced);

/* A segment of one of its tasks ended then, or its part of one, having lasted so long; if the request is over, that is background. */
void scope_charge_segment(Scope *scope, const Traced *traced, int32_t key, int64_t segment_ns, int64_t until_ns);
/* One of its tasks waited. */
void scope_charge_wait(Scope *scope, int32_t point, int64_t wait_ns);

#endif
