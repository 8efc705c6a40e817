/* Samples which lines hold the loops. */
#ifndef AIOMETRICS_SAMPLER_H
#define AIOMETRICS_SAMPLER_H

#include "recorder.h"

#include <stdatomic.h>

/* A page that is sampled. It lives as long as its sampler, because a thread without the GIL reads
   the page. */
struct Target {
    Target *next;
    PyObject *page_object;
    PyObject *places;   /* an aiometrics.recorder.held.HeldPlaces */
    Recorder *recorder; /* borrowed; NULL once it has retired */
    Page page;
    Table kinds;   /* code -> its FrameKind */
    Table entries; /* coroutine, line and what it called -> the entry of the page */
    Table points;  /* coroutine and yield point -> the entry of the page */
    atomic_ulong thread; /* where the loop ran when a task or a callback began */
    /* The samples not noted yet, the time that they stand for, and the segment in progress at the
       last of them, and whether garbage was being collected. That is read when the sample is taken:
       the interpreter may be interrupted in callbacks of the collector, so that a sample of what came
       before is often noted there. */
    atomic_llong samples, owed_ns, since_ns;
    atomic_int record, collecting;
    /* Whether the loop may handle events while the page says that it waits for some (libuv_turns.c):
       then when the last sample of that was taken, 0 if there is none. */
    atomic_int hides_events;
    atomic_llong waited_at_ns;
    /* The active time of the loop for which samples stand so far. */
    atomic_llong sampled_ns;
};

int sampler_init_module(PyObject *module);
void sampler_forget(Recorder *recorder);

static inline void
sampler_note_gaps(Recorder *recorder)
{
    if (recorder->target != NULL) {
        atomic_store(&recorder->target->hides_events, recorder->gaps.frame != NULL);
    }
}

static inline void
sampler_note_thread(Recorder *recorder)
{
    if (recorder->target != NULL) {
        atomic_store_explicit(&recorder->target->thread, PyThread_get_thread_ident(), memory_order_relaxed);
    }
}

#endif
