/* No twin in Python: libuv's callbacks run without the GIL. */
#include "libuv_turns.h"

#include "libuv.h"

#if LIBUV_CAN_BE_FOUND

#include "clock.h"
#include "handover.h"
#include "recorder.h"
#include "turns.h"

#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

/* Events are handled between the end of libuv's wait and the check. A look that finds the wait over
   for that long shows the turn that is in progress. */
#define LOOK_NS 5000000
#define LOOK_APART_NS 1000

/* What libuv's callbacks use. It lives until the handles are closed and Python needs it no more,
   whichever comes later. */
typedef struct {
    LibuvHandle handles[LIBUV_KINDS]; /* first, so that the callbacks find the rest */
    void *loop;
    Turns *turns;         /* NULL once retired; borrowed from the Python object, like the recorder */
    Recorder *recorder;
    int64_t entered_ns;   /* when the loop last began to wait for events */
    uint64_t idle_ns;     /* its idle time then */
    uint64_t looked_ns;   /* its idle time when a look found the wait over */
    uint64_t events;
    uint64_t events_waiting;
    int64_t timed;
    unsigned taken; /* what handover_wait() returned last */
    int looked; /* whether a look found the wait over */
    int running;
    int joined; /* the run that goes on was in progress when it was first seen, so that its end is not told */
    int closing;
    int owners; /* handles that are not closed, and the Python object */
    pid_t pid;
    atomic_flag locked;
} Watch;

typedef struct {
    PyObject_HEAD
    Turns *turns;
    Recorder *recorder;
    Watch *watch;
} LibuvTurns;

static PyTypeObject *libuv_turns_type;
static PyObject *is_closed, *is_running;

/* Held for a few instructions: by the loop in its callbacks, without the GIL, and by others with it.
   Nobody who holds it waits for anything. */
static inline void
lock(Watch *watch)
{
    while (atomic_flag_test_and_set_explicit(&watch->locked, memory_order_acquire)) {
        (void)sched_yield();
    }
}

static inline void
unlock(Watch *watch)
{
    atomic_flag_clear_explicit(&watch->locked, memory_order_release);
}

/* To be called with the lock, which is gone with the last owner. */
static void
disown(Watch *watch, int owners)
{
    watch->owners -= owners;
    if (watch->owners == 0) {
        free(watch);
        return;
    }
    unlock(watch);
}

static Watch *
watch_of(LibuvHandle *handle, LibuvKind kind)
{
    return (Watch *)(handle - kind);
}

/* --- callbacks: in the loop's thread, without the GIL -------------------------------------------- */

static void
on_prepare_closed(LibuvHandle *handle)
{
    Watch *watch = watch_of(handle, LIBUV_PREPARE);
    lock(watch);
    disown(watch, 1);
}

static void
on_check_closed(LibuvHandle *handle)
{
    Watch *watch = watch_of(handle, LIBUV_CHECK);
    lock(watch);
    disown(watch, 1);
}

SELDOM static void
close_handles(Watch *watch)
{
    if (!watch->closing) {
        watch->closing = 1;
        libuv.close(&watch->handles[LIBUV_PREPARE], on_prepare_closed);
        libuv.close(&watch->handles[LIBUV_CHECK], on_check_closed);
    }
}

/* Lets a thread that answers a scrape have the interpreter, if the loop will not rest. This is part
   of the wait: the loop would let go of it anyway, but take it back before that thread runs. */
SELDOM static void
hand_over(Watch *watch)
{
    if (libuv.backend_timeout(watch->loop) != 0) {
        return;
    }
    watch->taken = handover_wait(watch->taken);
    lock(watch);
    watch->entered_ns = clock_read_system();
    unlock(watch);
}

static void
on_prepare(LibuvHandle *handle)
{
    Watch *watch = watch_of(handle, LIBUV_PREPARE);
    lock(watch);
    if (watch->turns == NULL) {
        close_handles(watch);
    }
    else if (watch->running) {
        watch->entered_ns = clock_read_system();
        recorder_gap_phase(watch->recorder, GAPS_POLLING, watch->entered_ns);
        turns_enter(watch->turns, watch->entered_ns, watch->timed);
    }
    unlock(watch);
    if (handover_is_asked()) {
        hand_over(watch);
    }
}

/* Returns how many events there were since the last time; 1 if that is not known. */
static uint64_t
count_events(Watch *watch)
{
    if (libuv.metrics_info == NULL) {
        return 1;
    }
    LibuvMetrics metrics;
    (void)libuv.metrics_info(watch->loop, &metrics);
    uint64_t events = metrics.events - watch->events;
    turns_count_events(watch->turns, (int64_t)events, (int64_t)(metrics.events_waiting - watch->events_waiting));
    watch->events = metrics.events;
    watch->events_waiting = metrics.events_waiting;
    return events;
}

/* The loop waits on after a look found its wait over: its thread had not been on a processor between
   the prepare callback and the wait. */
SELDOM static void
wait_on(Watch *watch)
{
    const int64_t *loop = watch->turns->page.loop;
    recorder_gap_phase(watch->recorder, GAPS_POLLING, Py_MAX(loop[LOOP_TURN_SINCE_NS], loop[LOOP_SEEN_NS]));
    turns_enter(watch->turns, loop[LOOP_TURN_SINCE_NS], watch->timed);
    watch->looked = 0;
}

static int64_t
wait_ended_ns(const Watch *watch, uint64_t idle_ns)
{
    return watch->entered_ns + (int64_t)(idle_ns - watch->idle_ns);
}

/* The wait for events is over, and if there are any, they are handled from now on. */
static void
wait_is_over(Watch *watch, uint64_t idle_ns, GapPhase phase)
{
    if (turns_leave(watch->turns, wait_ended_ns(watch, idle_ns)) >= 0) {
        recorder_gap_phase(watch->recorder, phase, watch->turns->page.loop[LOOP_TURN_SINCE_NS]);
    }
}

static void
on_check(LibuvHandle *handle)
{
    Watch *watch = watch_of(handle, LIBUV_CHECK);
    lock(watch);
    if (watch->turns != NULL && watch->running) {
        uint64_t idle_ns = libuv.metrics_idle_time(watch->loop);
        if (watch->looked && watch->looked_ns != idle_ns) {
            wait_on(watch);
        }
        int handled = count_events(watch) != 0 || watch->looked;
        wait_is_over(watch, idle_ns, handled ? GAPS_EVENTS : GAPS_REST);
        if (handled) {
            recorder_gap_phase(watch->recorder, GAPS_REST, clock_read_system());
        }
        watch->idle_ns = idle_ns;
        watch->looked = 0;
    }
    unlock(watch);
}

/* --- with the GIL -------------------------------------------------------------------------------- */

static void
found_over(Watch *watch, uint64_t idle_ns)
{
    wait_is_over(watch, idle_ns, GAPS_EVENTS);
    watch->looked_ns = idle_ns;
    watch->looked = 1;
}

/* To be called before a reader counts the part of the turn in progress: if the loop has its events
   and is handling them, the page shows that from now on. */
static void
look(Watch *watch)
{
    uint64_t idle_ns = libuv.metrics_idle_time(watch->loop);
    int64_t now, started = clock_read_system();
    while ((now = clock_read_system()) - started < LOOK_APART_NS) {
    }
    int waits = libuv.metrics_idle_time(watch->loop) != idle_ns;
    if (waits && watch->looked) {
        wait_on(watch);
    }
    else if (!waits && watch->turns->page.loop[LOOP_POLL_SINCE_NS] != 0 && now - wait_ended_ns(watch, idle_ns) >= LOOK_NS) {
        found_over(watch, idle_ns);
    }
}

/* The recorder tells, in the loop's thread, that a segment begins while events are handled. */
static void
on_segment(void *argument)
{
    Watch *watch = argument;
    lock(watch);
    if (watch->turns != NULL && watch->running) {
        found_over(watch, libuv.metrics_idle_time(watch->loop));
    }
    unlock(watch);
}

/* In a forked child the thread that held the lock may be gone, and there is no other. */
static void
lock_for_python(Watch *watch)
{
    if (watch->pid == getpid()) {
        lock(watch);
        return;
    }
    watch->pid = getpid();
    (void)atomic_flag_test_and_set(&watch->locked);
}

static void
start(Watch *watch, int joined)
{
    lock_for_python(watch);
    if (watch->turns != NULL) {
        watch->running = 1;
        watch->joined = joined;
        watch->looked = 0;
        watch->idle_ns = libuv.metrics_idle_time(watch->loop);
        int64_t now = clock_read_system();
        turns_begin(watch->turns, now);
        recorder_gap_phase(watch->recorder, GAPS_REST, now);
    }
    unlock(watch);
}

static void
stop(Watch *watch)
{
    if (watch->turns != NULL && watch->running) {
        watch->running = 0;
        int64_t now = clock_read_system();
        recorder_gap_phase(watch->recorder, GAPS_OFF, now);
        turns_end(watch->turns, now);
    }
}

static PyObject *
method_start(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    start(((LibuvTurns *)object)->watch, 0);
    Py_RETURN_NONE;
}

static PyObject *
method_join(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    start(((LibuvTurns *)object)->watch, 1);
    Py_RETURN_NONE;
}

static PyObject *
method_stop(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Watch *watch = ((LibuvTurns *)object)->watch;
    lock_for_python(watch);
    stop(watch);
    unlock(watch);
    Py_RETURN_NONE;
}

/* What a method without arguments of uvloop's own class says of the loop; -1 with an exception. */
static int
ask(PyObject *method, PyObject *loop)
{
    PyObject *answer = PyObject_CallOneArg(method, loop);
    int yes = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return yes;
}

static PyObject *
method_look(PyObject *object, PyObject *loop)
{
    Watch *watch = ((LibuvTurns *)object)->watch;
    /* From here on nobody can start or close the loop, as that takes the GIL. */
    int closed = ask(is_closed, loop), runs = closed < 0 ? -1 : ask(is_running, loop);
    if (runs < 0) {
        return NULL;
    }
    lock_for_python(watch);
    if (watch->joined && !runs) {
        stop(watch);
    }
    if (!closed && watch->turns != NULL && watch->running) {
        look(watch);
    }
    unlock(watch);
    Py_RETURN_NONE;
}

static void
retire(Watch *watch)
{
    lock_for_python(watch);
    if (watch->turns != NULL) {
        watch->recorder->gaps.phase = GAPS_OFF;
        watch->turns = NULL;
    }
    unlock(watch);
}

static PyObject *
method_retire(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    retire(((LibuvTurns *)object)->watch);
    Py_RETURN_NONE;
}

static PyObject *
method_abandon(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Watch *watch = ((LibuvTurns *)object)->watch;
    retire(watch);
    lock(watch);
    int handles = watch->closing ? 0 : LIBUV_KINDS;
    watch->closing = 1;
    disown(watch, handles);
    Py_RETURN_NONE;
}

static Watch *
watch_new(void *loop, Turns *turns, Recorder *recorder, const int32_t *points, const PyObject *ready)
{
    Watch *watch = calloc(1, sizeof(Watch));
    if (watch == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    watch->loop = loop;
    watch->turns = turns;
    watch->recorder = recorder;
    if (recorder_open_gaps(recorder, points, ready, on_segment, watch) < 0) {
        free(watch);
        return NULL;
    }
    watch->owners = LIBUV_KINDS + 1;
    watch->pid = getpid();
    watch->timed = libuv.metrics_info == NULL ? TIMED_WITHOUT_EVENTS : TIMED;
    watch->idle_ns = libuv.metrics_idle_time(loop);
    if (libuv.metrics_info != NULL) {
        LibuvMetrics metrics;
        (void)libuv.metrics_info(loop, &metrics);
        watch->events = metrics.events;
        watch->events_waiting = metrics.events_waiting;
    }
    libuv_add(loop, &watch->handles[LIBUV_PREPARE], LIBUV_PREPARE, on_prepare);
    libuv_add(loop, &watch->handles[LIBUV_CHECK], LIBUV_CHECK, on_check);
    return watch;
}

/* Returns the uv_loop_t in a capsule; NULL with an exception if it is not that of `loop`, to which
   uvloop makes it refer. */
static void *
uv_loop_of(PyObject *loop, PyObject *capsule)
{
    void *found = PyCapsule_GetPointer(capsule, NULL);
    if (found != NULL && *(PyObject **)found != loop) {
        PyErr_SetString(PyExc_RuntimeError, "its loop in C does not refer to it");
        return NULL;
    }
    return found;
}

static PyObject *
libuv_turns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop", "capsule", "turns", "recorder", "events", "rest", "ready", NULL};
    PyObject *loop, *capsule, *turns, *recorder, *ready;
    int events, rest;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!O!iiO:LibuvTurns", names, &loop, &capsule, turns_type, &turns, recorder_type, &recorder,
                                     &events, &rest, &ready)) {
        return NULL;
    }
    void *uv_loop = uv_loop_of(loop, capsule);
    if (uv_loop == NULL) {
        return NULL;
    }
    if (((Turns *)turns)->clock != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a clock in Python cannot be read without the GIL");
        return NULL;
    }
    if (is_closed == NULL || libuv_measure_idle_time(uv_loop) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "its libuv was not bound, or does not measure idle time");
        return NULL;
    }
    LibuvTurns *self = (LibuvTurns *)type->tp_alloc(type, 0);
    int32_t points[GAP_PHASES] = {[GAPS_EVENTS] = events, [GAPS_REST] = rest};
    if (self == NULL || (self->watch = watch_new(uv_loop, (Turns *)turns, (Recorder *)recorder, points, ready == Py_None ? NULL : ready)) == NULL) {
        Py_XDECREF(self);
        return NULL;
    }
    self->turns = (Turns *)Py_NewRef(turns);
    self->recorder = (Recorder *)Py_NewRef(recorder);
    return (PyObject *)self;
}

static int
libuv_turns_traverse(LibuvTurns *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->turns);
    Py_VISIT(self->recorder);
    return 0;
}

static void
libuv_turns_dealloc(LibuvTurns *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->watch != NULL) {
        retire(self->watch);
        lock(self->watch);
        disown(self->watch, 1);
    }
    Py_XDECREF(self->turns);
    Py_XDECREF(self->recorder);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef libuv_turns_methods[] = {
    {"start", method_start, METH_NOARGS, "Begin the active part of a turn: the loop starts running."},
    {"join", method_join, METH_NOARGS, "As start(), in the middle of a run whose end will not be told."},
    {"stop", method_stop, METH_NOARGS, "End the active part of a turn: the loop stops running."},
    {"look", method_look, METH_O, "Show in the page that the loop, which is given, handles events and waits no more."},
    {"retire", method_retire, METH_NOARGS, "Stop writing for good; the loop closes the handles at its next turn."},
    {"abandon", method_abandon, METH_NOARGS, "Stop, and free the handles: the loop was collected."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot libuv_turns_slots[] = {
    {Py_tp_doc, "Writes the turns of one loop of uvloop into a page, in place of a timed selector."},
    {Py_tp_new, libuv_turns_new},
    {Py_tp_dealloc, libuv_turns_dealloc},
    {Py_tp_traverse, libuv_turns_traverse},
    {Py_tp_methods, libuv_turns_methods},
    {0, NULL},
};

static PyType_Spec libuv_turns_spec = {
    .name = "aiometrics.recorder._core.LibuvTurns",
    .basicsize = sizeof(LibuvTurns),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = libuv_turns_slots,
};

PyObject *
libuv_turns_bind(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *path;
    PyObject *closed, *running;
    if (!PyArg_ParseTuple(args, "sOO:bind_libuv", &path, &closed, &running)) {
        return NULL;
    }
    const char *reason = libuv_bind(path);
    if (reason != NULL) {
        return PyErr_Format(PyExc_RuntimeError, "%s", reason);
    }
    Py_XSETREF(is_closed, Py_NewRef(closed));
    Py_XSETREF(is_running, Py_NewRef(running));
    Py_RETURN_NONE;
}

int
libuv_turns_init_module(PyObject *module)
{
    libuv_turns_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &libuv_turns_spec, NULL);
    return libuv_turns_type == NULL ? -1 : PyModule_AddType(module, libuv_turns_type);
}

#endif
