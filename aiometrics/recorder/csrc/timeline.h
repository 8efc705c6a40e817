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
} Journal;

/* NULL without memory. */
Journal *journal_new(void);
void journal_free(Journal *self);
void journal_add(Journal *self, Rows *rows, int64_t first, int64_t second, int64_t third, int64_t fourth);
/* Tasks, steps and how many were dropped, as a tuple; NULL with an exception. */
PyObject *journal_build(const Journal *self);

#endif
