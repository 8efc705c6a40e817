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
    int retired;
} Turns;

extern PyTypeObject *turns_type;

int turns_init_module(PyObject *module);

/* These write into the page and touch no Python object: whoever times turns in another way
   (libuv_turns.c) calls them too. */

void turns_begin(Turns *self, int64_t now);
void turns_end(Turns *self, int64_t now);
/* The loop asks its selector. `timed` is what the page tells of the loop from now on. */
void turns_enter(Turns *self, int64_t now, int64_t timed);
/* The selector has answered. Returns for how long it was asked; -1 if it was not. */
int64_t turns_leave(Turns *self, int64_t now);
void turns_count_events(Turns *self, int64_t events, int64_t waiting);

#endif
