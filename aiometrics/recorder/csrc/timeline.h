/* The tasks of one scope and their steps in order, for a scope that keeps a timeline: the twin of
   class _Timeline in aiometrics/recorder/scope.py. */
#ifndef AIOMETRICS_TIMELINE_H
#define AIOMETRICS_TIMELINE_H

#include <Python.h>
#include <stdint.h>

typedef struct {
    int64_t (*rows)[4];
    int32_t used, room;
} Rows;

typedef struct {
    Rows tasks; /* number, creator's number or 0, record, time of creation */
    Rows steps; /* number of the task, key of the place, begin, end */
    int64_t dropped;
} Timeline;

/* Returns NULL without memory. */
Timeline *timeline_new(void);
void timeline_free(Timeline *self);
void timeline_add(Timeline *self, Rows *rows, int64_t first, int64_t second, int64_t third, int64_t fourth);
/* Returns a tuple of tasks, steps and how many were dropped; NULL with an exception. */
PyObject *timeline_build(const Timeline *self);

#endif
