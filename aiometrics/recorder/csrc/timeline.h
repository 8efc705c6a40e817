/* The tasks of one scope and their steps, one after the other, for a scope that was asked to keep them: class _Journal in
   aiometrics/recorder/scope.py. */
#ifndef AIOMETRICS_JOURNAL_H
#define AIOMETRICS_JOURNAL_H

#include <Python.h>
#include <stdint.h>

#define JOURNAL_ROOM 1000 /* tasks, and steps, that are kept; the rest is counted */

typedef struct {
    int64_t (*rows)[4];
    int32_t used, room;
} Rows;

typedef struct {
    Rows tasks; /* number, that of the task that created it or 0, record, when it was created */
    Rows steps; /* number of the task, key of the place, begin, end */
    int64_t dropped;
} Timeline;

/* NULL without memory. */
Timeline *timeline_new(void);
void timeline_free(Timeline *self);
void timeline_add(Timeline *self, Rows *rows, int64_t first, int64_t second, int64_t third, int64_t fourth);
/* Tasks, steps and how many were dropped, as a tuple; NULL with an exception. */
PyObject *timeline_build(const Timeline *self);

#endif
