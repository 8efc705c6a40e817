/* Times the turns of an event loop at its selector. The twin in Python,
   aiometrics/recorder/turns.py, is the specification. */
#ifndef AIOMETRICS_TURNS_H
#define AIOMETRICS_TURNS_H

#include <Python.h>
#include <stdint.h>

#include "page.h"

typedef struct {
    PyObject_HEAD
    PyObject *page_object;
    PyObject *internal_errors;
    PyObject *clock; /* NULL for the system's */
    Page page;
    int64_t began_ns; /* when a loop started that has not asked its selector yet; 0 if there is none */
    int left;         /* whether the selector left it to others to wait since the loop started */
    int retired;
} Turns;

extern PyTypeObject *turns_type;

int turns_init_module(PyObject *module);

/* These write into the page and touch no Python object: whoever times turns in another way
   (libuv_turns.c) calls them too. */

void turns_begin(Turns *self, int64_t now);
void turns_end(Turns *self, int64_t now);
SELDOM void turns_show_timed(Turns *self, int64_t timed);

/* Returns where one part of a turn ends and the next begins: now, unless a reader in another
   process has counted the part beyond that. */
static inline int64_t
turns_boundary(const Turns *self, int64_t now)
{
    return Py_MAX(now, self->page.loop[LOOP_SEEN_NS]);
}

static inline void
turns_end_active(Turns *self, int64_t now)
{
    int64_t *loop = self->page.loop;
    if (loop[LOOP_TURN_SINCE_NS] == 0) {
        return;
    }
    int64_t active_ns = now - loop[LOOP_TURN_SINCE_NS];
    loop[LOOP_ACTIVE_NS] += active_ns;
    observe(self->page.iterations, &self->page.segment, active_ns);
    loop[LOOP_TURN_SINCE_NS] = 0;
}

/* The loop asks its selector. `timed` is what the page tells of the loop from now on. */
static inline void
turns_enter(Turns *self, int64_t now, int64_t timed)
{
    page_begin_shared(&self->page);
    if (self->began_ns != 0) {
        turns_show_timed(self, timed);
    }
    now = turns_boundary(self, now);
    turns_end_active(self, now);
    self->page.loop[LOOP_POLL_SINCE_NS] = now;
    page_end_shared(&self->page);
}

/* The selector has answered. Returns for how long it was asked; -1 if it was not. */
static inline int64_t
turns_leave(Turns *self, int64_t now)
{
    int64_t *loop = self->page.loop;
    if (loop[LOOP_POLL_SINCE_NS] == 0) {
        return -1;
    }
    page_begin_shared(&self->page);
    now = turns_boundary(self, now);
    int64_t idle_ns = now - loop[LOOP_POLL_SINCE_NS];
    loop[LOOP_IDLE_NS] += idle_ns;
    loop[LOOP_POLL_SINCE_NS] = 0;
    loop[LOOP_TURN_SINCE_NS] = now;
    page_end_shared(&self->page);
    return idle_ns;
}

static inline void
turns_count_events(Turns *self, int64_t events, int64_t waiting)
{
    self->page.loop[LOOP_EVENTS] += events;
    self->page.loop[LOOP_EVENTS_WAITING] += waiting;
}

#endif
