/* The twin of aiometrics/recorder/turns.py. */
#include "turns.h"

#include "clock.h"
#include "errors.h"
#include "handover.h"
#include "page.h"

#include <structmember.h>

/* Replaces a selector's `select`, calls it and times it. */
typedef struct {
    PyObject_HEAD
    Turns *turns;
    PyObject *selector; /* a weak reference */
    PyObject *select;   /* what the selector itself had for an attribute; NULL: as its class has it */
    PyObject *method;   /* what its class has, of which it is borrowed as long as the class has this version; 0 if it is not known */
    unsigned int version;
    PyObject *weakrefs;
    vectorcallfunc vectorcall;
} TimedSelect;

PyTypeObject *turns_type;
static PyTypeObject *timed_select_type;
static PyObject *select_name, *zero;

SELDOM static int
fail(Turns *self)
{
    PyObject *error = error_taken();
    self->retired = 1;
    error_report(self->internal_errors, TURNS_PROBE, error);
    return error_done(error);
}

/* Reads the clock. 1 if the turns are timed, 0 if not, -1 with an interrupt that is meant for the
   application. */
static inline int
read_now(Turns *self, int64_t *now)
{
    if (!self->retired && clock_read(self->clock, now) < 0) {
        return fail(self);
    }
    return !self->retired;
}

/* The loop starts running. Whether its turns can be timed is not known until it asks its selector,
   so the page does not show this turn before. */
void
turns_begin(Turns *self, int64_t now)
{
    int64_t *loop = self->page.loop;
    self->left = 0;
    if (loop[LOOP_TIMED]) {
        loop[LOOP_TURN_SINCE_NS] = now;
    }
    else {
        self->began_ns = now;
    }
}

/* What is known of the turn that a loop started with is shown. */
void
turns_show_timed(Turns *self, int64_t timed)
{
    self->page.loop[LOOP_TIMED] = timed;
    self->page.loop[LOOP_TURN_SINCE_NS] = self->began_ns;
    self->began_ns = 0;
}

void
turns_end(Turns *self, int64_t now)
{
    self->began_ns = 0;
    page_begin_shared(&self->page);
    turns_end_active(self, turns_boundary(self, now));
    page_end_shared(&self->page);
}

static inline int
enter(Turns *self)
{
    int64_t now;
    int timed = read_now(self, &now);
    if (timed > 0) {
        turns_enter(self, now, TIMED);
    }
    return timed;
}

static inline int
leave(Turns *self, int64_t events, int waiting)
{
    int64_t now, since_ns = self->page.loop[LOOP_POLL_SINCE_NS];
    int timed = since_ns == 0 ? 0 : read_now(self, &now);
    if (timed <= 0) {
        return timed;
    }
    int rested = now - since_ns >= WAITED_NS;
    if (now - since_ns < GAVE_NS && handover_is_asked()) {
        handover_give();
        timed = read_now(self, &now);
        if (timed <= 0) {
            return timed;
        }
    }
    (void)turns_leave(self, now);
    turns_count_events(self, events, waiting || !rested ? events : 0);
    return timed;
}

/* Small integers are the same objects everywhere. */
static int
is_zero(PyObject *timeout)
{
    return timeout == zero;
}

/* The object behind a weak reference, a new reference; NULL with an exception if it is gone. */
static inline PyObject *
behind(PyObject *reference)
{
    PyObject *object = ((PyWeakReference *)reference)->wr_object;
    if (object == Py_None || Py_REFCNT(object) == 0) {
        PyErr_SetString(PyExc_ReferenceError, "the selector is gone");
        return NULL;
    }
    return Py_NewRef(object);
}

/* Calls a function as a method of the selector, whose place before the arguments is ours until the call is over. */
static PyObject *
call_unbound(PyObject *method, PyObject *selector, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject **all = (PyObject **)args - 1;
    PyObject *before = all[0];
    all[0] = selector;
    PyObject *events = PyObject_Vectorcall(method, all, (size_t)count + 1, names);
    all[0] = before;
    return events;
}

static PyObject *
call_bound(PyObject *method, PyObject *selector, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    descrgetfunc bind = Py_TYPE(method)->tp_descr_get;
    PyObject *bound = bind == NULL ? Py_NewRef(method) : bind(method, selector, (PyObject *)Py_TYPE(selector));
    PyObject *events = bound == NULL ? NULL : PyObject_Vectorcall(bound, args, (size_t)count, names);
    Py_XDECREF(bound);
    return events;
}

/* The method that the class of the selector has now, another tool's perhaps. Another version of the class may have another one. */
static inline PyObject *
method_of(TimedSelect *self, PyTypeObject *type)
{
    if (self->version == 0 || self->version != type->tp_version_tag) {
        self->method = _PyType_Lookup(type, select_name);
        self->version = self->method == NULL ? 0 : type->tp_version_tag;
    }
    return Py_XNewRef(self->method);
}

static inline PyObject *
call_method(TimedSelect *self, PyObject *selector, PyObject *const *args, size_t flags, PyObject *names)
{
    PyObject *method = method_of(self, Py_TYPE(selector));
    if (method == NULL) {
        PyErr_SetObject(PyExc_AttributeError, select_name);
        return NULL;
    }
    int is_function = PyType_HasFeature(Py_TYPE(method), Py_TPFLAGS_METHOD_DESCRIPTOR) && flags & PY_VECTORCALL_ARGUMENTS_OFFSET;
    PyObject *events = (is_function ? call_unbound : call_bound)(method, selector, args, PyVectorcall_NARGS(flags), names);
    Py_DECREF(method);
    return events;
}

static inline PyObject *
call_select(TimedSelect *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (self->select != NULL) {
        return PyObject_Vectorcall(self->select, args, flags & ~PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    }
    PyObject *selector = behind(self->selector);
    PyObject *events = selector == NULL ? NULL : call_method(self, selector, args, flags, names);
    Py_XDECREF(selector);
    return events;
}

/* The selector raised, so what the loop does until it asks again is not known. That of a loop which is the guest of another one, which
   waits for it, does so instead of waiting (qtinter). At the second time in a run, its turns are given up. -1 with an exception. */
SELDOM static int
leave_to_others(Turns *self)
{
    int64_t since_ns = self->page.loop[LOOP_TURN_SINCE_NS];
    if (self->retired || since_ns == 0) {
        return 0;
    }
    turns_end(self, since_ns);
    if (!self->left) {
        self->left = 1;
        return 0;
    }
    self->retired = 1;
    PyObject *done = PyObject_CallMethod(self->page_object, "forget_turns", NULL);
    Py_XDECREF(done);
    return done == NULL ? fail(self) : 0;
}

/* The selector raised an exception, which goes before one of ours. */
SELDOM static void
leave_raising(Turns *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int left = !PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt);
    if (leave(self, 0, 0) < 0 || (left && leave_to_others(self) < 0)) {
        error_clear();
    }
    PyErr_Restore(type, value, traceback);
}

static PyObject *
timed_select_call(PyObject *object, PyObject *const *args, size_t flags, PyObject *names)
{
    TimedSelect *self = (TimedSelect *)object;
    int waiting = PyVectorcall_NARGS(flags) == 1 && is_zero(args[0]);
    if (enter(self->turns) < 0) {
        return NULL;
    }
    PyObject *events = call_select(self, args, flags, names);
    if (events == NULL) {
        leave_raising(self->turns);
    }
    else if (leave(self->turns, PyList_CheckExact(events) ? PyList_GET_SIZE(events) : 0, waiting) < 0) {
        Py_CLEAR(events);
    }
    return events;
}

/* No tp_clear: a cycle through the selector, which has this as an attribute, is broken there. */
static int
timed_select_traverse(TimedSelect *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->turns);
    Py_VISIT(self->selector);
    Py_VISIT(self->select);
    return 0;
}

static void
timed_select_dealloc(TimedSelect *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_XDECREF(self->turns);
    Py_XDECREF(self->selector);
    Py_XDECREF(self->select);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMemberDef timed_select_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(TimedSelect, vectorcall), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TimedSelect, weakrefs), READONLY, NULL},
    {"__wrapped__", T_OBJECT, offsetof(TimedSelect, select), READONLY, "The attribute that it replaced, or None."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot timed_select_slots[] = {
    {Py_tp_doc, "Calls a selector's select and times it."},
    {Py_tp_dealloc, timed_select_dealloc},
    {Py_tp_traverse, timed_select_traverse},
    {Py_tp_members, timed_select_members},
    {Py_tp_call, PyVectorcall_Call},
    {0, NULL},
};

static PyType_Spec timed_select_spec = {
    .name = "aiometrics.recorder._core.TimedSelect",
    .basicsize = sizeof(TimedSelect),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = timed_select_slots,
};

static PyObject *
turns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"page", "clock", "internal_errors", NULL};
    PyObject *page, *clock, *internal_errors;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:Turns", names, &page, &clock, &internal_errors)) {
        return NULL;
    }
    Turns *self = (Turns *)type->tp_alloc(type, 0);
    if (self == NULL || page_open(&self->page, page) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    self->page_object = Py_NewRef(page);
    self->internal_errors = Py_NewRef(internal_errors);
    self->clock = clock_kept(clock);
    return (PyObject *)self;
}

/* No tp_clear, as in the recorder: cycles are broken at the loop. */
static int
turns_traverse(Turns *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->page_object);
    Py_VISIT(self->internal_errors);
    Py_VISIT(self->clock);
    return 0;
}

static void
turns_dealloc(Turns *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->page.buffer.obj != NULL) {
        page_close(&self->page);
    }
    Py_XDECREF(self->page_object);
    Py_XDECREF(self->internal_errors);
    Py_XDECREF(self->clock);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
turns_start(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Turns *self = (Turns *)object;
    int64_t now;
    int timed = read_now(self, &now);
    if (timed > 0) {
        turns_begin(self, now);
    }
    return timed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
turns_stop(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Turns *self = (Turns *)object;
    int64_t now;
    int timed = read_now(self, &now);
    if (timed > 0) {
        turns_end(self, now);
    }
    return timed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
turns_retire(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    ((Turns *)object)->retired = 1;
    Py_RETURN_NONE;
}

static PyObject *
turns_timed(PyObject *object, PyObject *args)
{
    PyObject *selector, *own;
    if (!PyArg_ParseTuple(args, "OO:timed", &selector, &own)) {
        return NULL;
    }
    PyObject *reference = PyWeakref_NewRef(selector, NULL);
    TimedSelect *timed = reference == NULL ? NULL : PyObject_GC_New(TimedSelect, timed_select_type);
    if (timed == NULL) {
        Py_XDECREF(reference);
        return NULL;
    }
    timed->turns = (Turns *)Py_NewRef(object);
    timed->selector = reference;
    timed->select = own == Py_None ? NULL : Py_NewRef(own);
    timed->method = NULL;
    timed->version = 0;
    timed->weakrefs = NULL;
    timed->vectorcall = timed_select_call;
    PyObject_GC_Track((PyObject *)timed);
    return (PyObject *)timed;
}

static PyMethodDef turns_methods[] = {
    {"start", turns_start, METH_NOARGS, "Begin the active part of a turn: the loop starts running."},
    {"stop", turns_stop, METH_NOARGS, "End the active part of a turn: the loop stops running."},
    {"retire", turns_retire, METH_NOARGS, "Stop writing for good."},
    {"timed", turns_timed, METH_VARARGS, "Return a callable that calls a selector's select and times it."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot turns_slots[] = {
    {Py_tp_doc, "Writes the turns of one loop into its page; see aiometrics.recorder.turns.Turns."},
    {Py_tp_new, turns_new},
    {Py_tp_dealloc, turns_dealloc},
    {Py_tp_traverse, turns_traverse},
    {Py_tp_methods, turns_methods},
    {0, NULL},
};

static PyType_Spec turns_spec = {
    .name = "aiometrics.recorder._core.Turns",
    .basicsize = sizeof(Turns),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = turns_slots,
};

int
turns_init_module(PyObject *module)
{
    select_name = PyUnicode_InternFromString("select");
    zero = PyLong_FromLong(0);
    timed_select_type = select_name == NULL || zero == NULL ? NULL : (PyTypeObject *)PyType_FromModuleAndSpec(module, &timed_select_spec, NULL);
    turns_type = timed_select_type == NULL ? NULL : (PyTypeObject *)PyType_FromModuleAndSpec(module, &turns_spec, NULL);
    return turns_type == NULL ? -1 : PyModule_AddType(module, turns_type);
}
