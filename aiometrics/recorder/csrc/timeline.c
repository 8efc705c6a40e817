#include "timeline.h"

#include "constants.h"

#define FIRST_ROOM 32

Timeline *
timeline_new(void)
{
    return PyMem_Calloc(1, sizeof(Timeline));
}

void
timeline_free(Timeline *self)
{
    if (self != NULL) {
        PyMem_Free(self->tasks.rows);
        PyMem_Free(self->steps.rows);
        PyMem_Free(self);
    }
}

/* Makes room for one more row; 0 if there is none. */
static int
make_room(Rows *self)
{
    if (self->used < self->room) {
        return 1;
    }
    if (self->used >= MAX_TIMELINE) {
        return 0;
    }
    int32_t room = self->room == 0 ? FIRST_ROOM : 2 * self->room < MAX_TIMELINE ? 2 * self->room : MAX_TIMELINE;
    void *rows = PyMem_Realloc(self->rows, (size_t)room * sizeof(*self->rows));
    if (rows == NULL) {
        return 0;
    }
    self->rows = rows;
    self->room = room;
    return 1;
}

void
timeline_add(Timeline *self, Rows *rows, int64_t first, int64_t second, int64_t third, int64_t fourth)
{
    if (!make_room(rows)) {
        self->dropped += 1;
        return;
    }
    int64_t *row = rows->rows[rows->used++];
    row[0] = first;
    row[1] = second;
    row[2] = third;
    row[3] = fourth;
}

/* Rows that a garbage collection adds while the list is made are left out. */
static PyObject *
list_of(const Rows *rows)
{
    Py_ssize_t used = rows->used;
    PyObject *list = PyList_New(used);
    for (Py_ssize_t number = 0; list != NULL && number < used; number++) {
        const int64_t *row = rows->rows[number];
        PyObject *entry = Py_BuildValue("LLLL", (long long)row[0], (long long)row[1], (long long)row[2], (long long)row[3]);
        if (entry == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, number, entry);
    }
    return list;
}

PyObject *
timeline_build(const Timeline *self)
{
    PyObject *tasks = list_of(&self->tasks);
    PyObject *steps = tasks == NULL ? NULL : list_of(&self->steps);
    if (steps == NULL) {
        Py_XDECREF(tasks);
        return NULL;
    }
    return Py_BuildValue("NNL", tasks, steps, (long long)self->dropped);
}
