/* The twin of aiometrics/recorder/scope.py. */
#include "scope.h"

#include "clock.h"
#include "errors.h"

#include <structmember.h>

#define FIRST_ROOM 8

int scope_ever_entered;
static PyTypeObject *scope_type;
static PyObject *current_scope; /* the context variable */

/* --- charges ---------------------------------------------------------------------------------- */

static Charge *
find_charge(const Scope *self, int32_t key)
{
    for (int32_t place = 0; place < self->used; place++) {
        if (self->charges[place].key == key) {
            return &self->charges[place];
        }
    }
    return NULL;
}

static int
grow(Scope *self)
{
    int32_t room = self->room == 0 ? FIRST_ROOM : 2 * self->room;
    Charge *charges = PyMem_Realloc(self->charges, (size_t)room * sizeof(Charge));
    if (charges == NULL) {
        return -1;
    }
    self->charges = charges;
    self->room = room;
    return 0;
}

/* There is some room since the scope was entered. Without memory for more, a new place is charged
   to the latest one. */
static Charge *
charge_of(Scope *self, int32_t key)
{
    Charge *charge = find_charge(self, key);
    if (charge == NULL && self->used >= SCOPE_POINTS) {
        key = OTHER_POINT;
        charge = find_charge(self, key);
    }
    if (charge == NULL && self->used == self->room && grow(self) < 0) {
        charge = &self->charges[self->used - 1];
    }
    if (charge == NULL) {
        charge = &self->charges[self->used++];
        *charge = (Charge){.key = key, .wait_record = -1};
    }
    return charge;
}

void
scope_charge_segment(Scope *self, const Traced *traced, int32_t key, int64_t segment_ns, int64_t until_ns)
{
    const Page *page = &self->recorder->page;
    if (self->state != SCOPE_OPEN) {
        page_request(page, self->record)[REQUEST_BACKGROUND_NS] += segment_ns;
        return;
    }
    Charge *charge = charge_of(self, key);
    charge->segments += 1;
    charge->active_ns += segment_ns;
    charge->blocking_ns += until_ns - traced->since_ns >= page->threshold_ns ? segment_ns : 0;
    if (self->timeline != NULL) {
        timeline_add(self->timeline, &self->timeline->steps, traced->number, key, until_ns - segment_ns, until_ns);
    }
}

void
scope_charge_wait(Scope *self, int32_t point, int64_t wait_ns)
{
    if (self->state == SCOPE_OPEN) {
        charge_of(self, point)->wait_ns += wait_ns;
    }
}

static int64_t
active_ns(const Scope *self)
{
    int64_t sum_ns = 0;
    for (int32_t place = 0; place < self->used; place++) {
        sum_ns += self->charges[place].active_ns;
    }
    return sum_ns;
}

/* --- tasks ------------------------------------------------------------------------------------ */

/* Returns the running task, or NULL in a callback. */
static Traced *
task_in_progress(const Recorder *recorder)
{
    return recorder->current == NULL || recorder->current->record == CALLBACKS ? NULL : recorder->current;
}

/* Returns the key for the part of the task's segment since it was divided last. */
static int32_t
part_key(const Recorder *recorder, const Traced *traced)
{
    if (traced->point > 0 && traced->divided_ns == 0) {
        return ~traced->point;
    }
    return ~((int32_t)recorder->page.last_point + 1 + traced->record);
}

/* Charges the segment in progress so far to the task's scope; the rest may be another's. */
static void
divide(Recorder *recorder, Traced *traced, int64_t now)
{
    int64_t until = traced == recorder->current ? now : traced->paused_ns;
    int64_t elapsed_ns = until - traced->since_ns;
    if (traced->scope != NULL) {
        scope_charge_segment(traced->scope, traced, part_key(recorder, traced), elapsed_ns - traced->divided_ns, until);
    }
    traced->divided_ns = elapsed_ns;
}

/* Adds a task that belongs to the scope from now on. */
static void
timeline_add_task(Scope *self, const Traced *traced)
{
    if (self->timeline != NULL && self->state == SCOPE_OPEN) {
        timeline_add(self->timeline, &self->timeline->tasks, traced->number, traced->creator, traced->record, traced->created_ns);
    }
}

void
scope_attach(Recorder *recorder, Traced *traced)
{
    PyObject *value;
    if (PyContextVar_Get(current_scope, NULL, &value) < 0) {
        PyErr_Clear();
        return;
    }
    if (value == NULL) {
        return;
    }
    Scope *scope = PyObject_TypeCheck(value, scope_type) ? (Scope *)value : NULL;
    if (scope != NULL && scope->recorder == recorder) {
        traced->scope = (Scope *)Py_NewRef(value);
        traced->divided_ns = 0;
        timeline_add_task(scope, traced);
    }
    else if (scope != NULL && scope->recorder != NULL && !scope->recorder->retired) {
        recorder->page.scope_errors[SCOPE_ERROR_FOREIGN_LOOP] += 1;
    }
    Py_DECREF(value);
}

Scope *
scope_take(Traced *traced)
{
    Scope *taken = traced->scope;
    for (Scope *scope = taken; scope != NULL; scope = scope->outer) {
        if (scope->entered_in == traced) {
            scope->entered_in = NULL;
        }
    }
    traced->scope = NULL;
    return taken;
}

void
scope_detach(Traced *traced)
{
    Py_XDECREF((PyObject *)scope_take(traced));
}

/* --- entered and left ------------------------------------------------------------------------- */

/* Tells a subclass in Python that the scope will never be left. */
static void
notify_abandoned(Scope *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *done = PyObject_CallMethod((PyObject *)self, "abandoned", NULL);
    if (done == NULL && !error_deferred()) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(done);
    PyErr_Restore(type, value, traceback);
}

static void
abandon(Scope *self)
{
    int was_open = self->state == SCOPE_OPEN;
    self->state = SCOPE_LEFT;
    self->entered_in = NULL;
    if (!was_open) {
        return;
    }
    if (!self->recorder->retired) {
        const Page *page = &self->recorder->page;
        page_begin_shared(page);
        page_request(page, self->record)[REQUEST_IN_PROGRESS] -= 1;
        page_request(page, self->record)[REQUEST_BACKGROUND_NS] += active_ns(self);
        page->scope_errors[SCOPE_ERROR_ABANDONED] += 1;
        page_end_shared(page);
    }
    notify_abandoned(self);
}

/* Abandons the scopes around this one beyond SCOPE_NESTED. */
static void
limit_nesting(Scope *self)
{
    Scope *inner = self;
    for (int depth = 0; depth < SCOPE_NESTED && inner != NULL; depth++) {
        inner = inner->outer;
    }
    Scope *outermost = inner == NULL ? NULL : inner->outer;
    if (inner != NULL) {
        inner->outer = NULL;
    }
    while (outermost != NULL) {
        abandon(outermost);
        Scope *next = (Scope *)Py_XNewRef((PyObject *)outermost->outer);
        Py_DECREF(outermost);
        outermost = next;
    }
}

/* Returns the scope of the context if it is another one that was not left: a new reference, or
   NULL. */
static Scope *
open_in_context(const Scope *self)
{
    PyObject *value;
    if (PyContextVar_Get(current_scope, NULL, &value) < 0) {
        PyErr_Clear();
        return NULL;
    }
    if (value != NULL && value != (PyObject *)self && PyObject_TypeCheck(value, scope_type) && ((Scope *)value)->state != SCOPE_LEFT) {
        return (Scope *)value;
    }
    Py_XDECREF(value);
    return NULL;
}

/* Enters the scope. Returns whether it is measured; -1 with an exception. */
static int
enter(Scope *self, Recorder *recorder, int32_t record)
{
    int64_t now;
    if (clock_read(recorder->clock, &now) < 0) {
        return -1;
    }
    if (recorder->retired || self->state != SCOPE_NEW) {
        return 0;
    }
    if (grow(self) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    Traced *task = task_in_progress(recorder);
    self->outer = task != NULL && task->scope != NULL ? (Scope *)Py_NewRef((PyObject *)task->scope) : open_in_context(self);
    self->recorder = (Recorder *)Py_NewRef((PyObject *)recorder);
    self->record = record;
    self->entered_ns = now;
    self->state = SCOPE_OPEN;
    scope_ever_entered = 1;
    page_begin(&recorder->page);
    page_request(&recorder->page, record)[REQUEST_IN_PROGRESS] += 1;
    Scope *before = NULL;
    if (task != NULL) {
        divide(recorder, task, now);
        before = task->scope; /* self->outer keeps it alive */
        task->scope = (Scope *)Py_NewRef((PyObject *)self);
        self->entered_in = task;
        self->entered_in_record = task->record;
    }
    page_end(&recorder->page);
    Py_XDECREF(before);
    limit_nesting(self);
    return 1;
}

/* Removes the scope from those of the task that entered it, and counts an error if that is not the
   running task or an inner scope is still open. Returns the reference that the task's chain had, or
   NULL. */
static Scope *
unlink_scope(Scope *self)
{
    Recorder *recorder = self->recorder;
    Traced *task = self->entered_in;
    self->entered_in = NULL;
    if (task != task_in_progress(recorder)) {
        recorder->page.scope_errors[SCOPE_ERROR_FOREIGN_TASK] += 1;
    }
    if (task == NULL) {
        return NULL;
    }
    Scope **place = &task->scope;
    if (*place != self && task == task_in_progress(recorder)) {
        recorder->page.scope_errors[SCOPE_ERROR_OUT_OF_ORDER] += 1;
    }
    while (*place != NULL && *place != self) {
        place = &(*place)->outer;
    }
    if (*place == NULL) {
        return NULL;
    }
    int direct = place == &task->scope;
    Scope *outer = self->outer;
    *place = outer == NULL || (direct && outer->recorder != recorder) ? NULL : (Scope *)Py_NewRef((PyObject *)outer);
    return self;
}

/* Finds the record of each wait; -1 with an exception. Python may run, which may add charges. */
static int
name_waits(Scope *self)
{
    Recorder *recorder = self->recorder;
    for (int32_t place = 0; place < self->used;) {
        Charge *charge = &self->charges[place];
        if (charge->wait_ns == 0 || charge->wait_record >= 0) {
            place++;
            continue;
        }
        int32_t key = charge->key, number = recorder_request_wait(recorder, self->record, key);
        if (number < 0 || recorder->retired) {
            return -1;
        }
        charge = find_charge(self, key);
        charge->wait_record = number;
        place = 0;
    }
    return 0;
}

/* Counts a request that is over. */
static void
count_finished(Scope *self, int status, int64_t wall_ns)
{
    Page *page = &self->recorder->page;
    page_request(page, self->record)[REQUEST_IN_PROGRESS] -= 1;
    observe(page_request_wall(page, self->record, status), &page->wait, wall_ns);
    observe(page_request_active(page, self->record), &page->wait, active_ns(self));
    for (int32_t place = 0; place < self->used; place++) {
        const Charge *charge = &self->charges[place];
        if (charge->wait_ns != 0) { /* one added while the clock was read has no name: it is (other) */
            page_request_wait(page, Py_MAX(charge->wait_record, 0))[REQUEST_WAIT_WAIT_NS] += charge->wait_ns;
        }
    }
}

/* Ends the request unless it has ended, and if this is the `last` call removes the scope from its
   task. -1 with an exception, or without one if the recorder was retired while Python ran. */
static int
finish(Scope *self, int status, int last, int64_t *wall_ns)
{
    Recorder *recorder = self->recorder;
    int was_open = self->state == SCOPE_OPEN;
    int64_t now;
    if ((was_open && name_waits(self) < 0) || clock_read(recorder->clock, &now) < 0 || recorder->retired) {
        return -1;
    }
    if ((self->state == SCOPE_OPEN) != was_open || self->state == SCOPE_LEFT) {
        return 0;
    }
    page_begin(&recorder->page);
    for (Traced *traced = recorder->current; traced != NULL; traced = traced->outer) {
        if (traced->scope == self) {
            divide(recorder, traced, now);
        }
    }
    Scope *unlinked = last ? unlink_scope(self) : NULL;
    self->state = last ? SCOPE_LEFT : SCOPE_OVER;
    if (was_open) {
        *wall_ns = now - self->entered_ns;
        count_finished(self, status, *wall_ns);
    }
    page_end(&recorder->page);
    Py_XDECREF(unlinked);
    return 0;
}

/* --- the type --------------------------------------------------------------------------------- */

static PyObject *
scope_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return type->tp_alloc(type, 0);
}

/* No tp_clear: a task must still reach the scopes that it entered, and cycles through them are
   broken elsewhere. */
static int
scope_traverse(Scope *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->recorder);
    Py_VISIT(self->outer);
    return 0;
}

static void
scope_finalize(PyObject *object)
{
    abandon((Scope *)object);
}

static void
scope_dealloc(Scope *self)
{
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->outer);
    PyMem_Free(self->charges);
    timeline_free(self->timeline);
    Py_XDECREF(self->recorder);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
method_enter(PyObject *object, PyObject *args)
{
    Scope *self = (Scope *)object;
    Recorder *recorder;
    PyObject *number;
    if (!PyArg_ParseTuple(args, "O!O:enter", recorder_type, &recorder, &number)) {
        return NULL;
    }
    int32_t record = number_within(Py_NewRef(number), recorder->page.last_request);
    if (record < 0) {
        return NULL;
    }
    if (recorder->retired || self->state != SCOPE_NEW) {
        Py_RETURN_FALSE;
    }
    int entered = enter(self, recorder, record);
    if (entered < 0 && recorder_fail(recorder) < 0) {
        return NULL;
    }
    return PyBool_FromLong(entered > 0);
}

/* Returns `given` as a status; -1 with an exception if it is not one. */
static int
status_given(PyObject *given)
{
    long status = PyLong_AsLong(given);
    if (status >= 0 && status < STATUSES) {
        return (int)status;
    }
    if (!PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "status %ld is not one of %d", status, STATUSES);
    }
    return -1;
}

static PyObject *
method_end(PyObject *object, PyObject *given)
{
    Scope *self = (Scope *)object;
    int64_t wall_ns = -1;
    int status = status_given(given);
    if (status < 0) {
        return NULL;
    }
    if (self->state == SCOPE_OPEN && !self->recorder->retired && finish(self, status, 0, &wall_ns) < 0
        && recorder_fail(self->recorder) < 0) {
        return NULL;
    }
    return PyLong_FromLongLong(wall_ns);
}

static PyObject *
method_leave(PyObject *object, PyObject *given)
{
    Scope *self = (Scope *)object;
    int64_t wall_ns = -1;
    int status = status_given(given);
    if (status < 0) {
        return NULL;
    }
    int measured = (self->state == SCOPE_OPEN || self->state == SCOPE_OVER) && !self->recorder->retired;
    int interrupted = measured && finish(self, status, 1, &wall_ns) < 0 ? recorder_fail(self->recorder) : 0;
    self->state = SCOPE_LEFT;
    Py_CLEAR(self->outer);
    return interrupted ? NULL : PyLong_FromLongLong(wall_ns);
}

static PyObject *
method_keep_timeline(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Scope *self = (Scope *)object;
    if (self->timeline == NULL) {
        self->timeline = timeline_new();
        if (self->timeline == NULL) {
            return PyErr_NoMemory();
        }
        if (self->entered_in != NULL && !self->recorder->retired) { /* if retired, the task may be gone */
            timeline_add_task(self, self->entered_in);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
method_timeline(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const Scope *self = (const Scope *)object;
    if (self->timeline == NULL) {
        Py_RETURN_NONE;
    }
    return timeline_build(self->timeline);
}

static PyObject *
method_charges(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Scope *self = (Scope *)object;
    PyObject *list = PyList_New(0);
    for (int32_t place = 0; list != NULL && place < self->used; place++) {
        Charge charge = self->charges[place]; /* a copy: garbage collection may run */
        PyObject *entry = Py_BuildValue("iLLLL", (int)charge.key, (long long)charge.segments, (long long)charge.active_ns,
                                        (long long)charge.wait_ns, (long long)charge.blocking_ns);
        if (entry == NULL || PyList_Append(list, entry) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
    }
    return list;
}

static PyObject *
method_abandoned(PyObject *Py_UNUSED(object), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

static PyObject *
get_outer(PyObject *object, void *Py_UNUSED(closure))
{
    Scope *outer = ((Scope *)object)->outer;
    return Py_NewRef(outer == NULL ? Py_None : (PyObject *)outer);
}

static PyMethodDef scope_methods[] = {
    {"enter", method_enter, METH_VARARGS, "Begin in the running task, as a request of that record. Works once. Return whether it is measured."},
    {"end", method_end, METH_O, "End the request with a status; what its tasks take from now on is background. Return its wall time in ns, or -1."},
    {"leave", method_leave, METH_O, "End the request unless it has ended, and return the task to the enclosing scope. Return the same as end()."},
    {"keep_timeline", method_keep_timeline, METH_NOARGS, "Keep each step of the tasks from now on, as far as there is room."},
    {"timeline", method_timeline, METH_NOARGS, "Return the tasks, their steps, and how many of both found no room; None if no timeline was kept."},
    {"charges", method_charges, METH_NOARGS, "Return what has been charged, in the order in which the places were met."},
    {"abandoned", method_abandoned, METH_NOARGS, "Do nothing. Subclasses override it to learn that the scope will never be left."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef scope_getset[] = {
    {"outer", get_outer, NULL, "The scope that continues when this one is left.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef scope_members[] = {
    {"entered_ns", T_LONGLONG, offsetof(Scope, entered_ns), READONLY, "The reading of the clock when it was entered."},
    {"entered_in_record", T_INT, offsetof(Scope, entered_in_record), READONLY, "The record of the coroutine of the task that entered it."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot scope_slots[] = {
    {Py_tp_doc, "One request on one loop; see aiometrics.recorder.scope.RequestScope."},
    {Py_tp_new, scope_tp_new},
    {Py_tp_dealloc, scope_dealloc},
    {Py_tp_finalize, scope_finalize},
    {Py_tp_traverse, scope_traverse},
    {Py_tp_methods, scope_methods},
    {Py_tp_getset, scope_getset},
    {Py_tp_members, scope_members},
    {0, NULL},
};

static PyType_Spec scope_spec = {
    .name = "aiometrics.recorder._core.RequestScope",
    .basicsize = sizeof(Scope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = scope_slots,
};

int
scope_init_module(PyObject *module)
{
    PyObject *twin = PyImport_ImportModule("aiometrics.recorder.scope");
    current_scope = twin == NULL ? NULL : PyObject_GetAttrString(twin, "current_scope");
    Py_XDECREF(twin);
    if (current_scope == NULL) {
        return -1;
    }
    scope_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &scope_spec, NULL);
    return scope_type == NULL ? -1 : PyModule_AddType(module, scope_type);
}
