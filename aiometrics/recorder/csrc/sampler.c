/* The twin of aiometrics/recorder/sampler.py.

   A thread without the GIL looks at random moments which loops are active, and asks the main thread,
   by a pending call, to note which line it is at. The call comes at the next instruction at which
   the interpreter may be interrupted, and what is due is noted there, however long that took: a
   call into C is sampled when it returns, at its line, with all of its time.

   Pending calls run in the main thread only. For a loop elsewhere, and for one whose main thread
   does not answer for long, the sampling thread takes the GIL and looks at the frames of the loop's
   thread. If the segment has ended by then, it is known where it ended. */
#include "sampler.h"

#include "breaker.h"
#include "clock.h"
#include "errors.h"
#include "frame.h"
#include "handover.h"
#include "stack.h"

#include <math.h>
#ifndef _WIN32
#include <unistd.h>
#endif

/* So many mean pauses without an answer are long. */
#define PATIENCE 10

typedef struct {
    PyObject_HEAD
    _Atomic(Target *) targets; /* only ever added to while the sampler lives */
    PyThread_type_lock stopping; /* held until stop() */
    uint64_t draw;
    unsigned long main_thread;
    int stopped;
    int busy;      /* noting, which may run Python and so let another thread come here */
    long process;
    atomic_int asked; /* a pending call is on its way */
} Sampler;

static PyTypeObject *sampler_type;
static Sampler *answering; /* whose samples pending calls note; borrowed */

void
sampler_forget(Recorder *recorder)
{
    if (recorder->target != NULL) {
        recorder->target->recorder = NULL;
        recorder->target = NULL;
    }
}

static long
process_id(void)
{
#ifdef _WIN32
    return 0;
#else
    return (long)getpid();
#endif
}

/* --- the line ----------------------------------------------------------------------------------- */

typedef struct {
    PyFrameObject *frame; /* of the highest origin and innermost; NULL if there is none */
    PyFrameObject *below; /* what it called, or NULL */
} Line;

static void
line_set(Line *line, PyFrameObject *frame, PyFrameObject *below)
{
    Py_XINCREF(frame);
    Py_XINCREF(below);
    Py_XSETREF(line->frame, frame);
    Py_XSETREF(line->below, below);
}

static int32_t
kind_of(Target *target, PyFrameObject *frame, PyCodeObject *code)
{
    int32_t kind = table_get_one(&target->kinds, (PyObject *)code);
    if (kind != TABLE_MISS) {
        return kind;
    }
    PyObject *globals = PyFrame_GetGlobals(frame);
    kind = number_within(call_uninterrupted(target->places, "kind", "(OO)", code, globals), KIND_OWN);
    Py_DECREF(globals);
    return kind < 0 || table_put(&target->kinds, (Key){(PyObject *)code, NULL, NULL, 0}, kind) < 0 ? -1 : kind;
}

/* Whether a frame has only just been entered: the time until now was its caller's. */
static int
just_entered(PyFrameObject *frame, PyCodeObject *code)
{
    return PyFrame_GetLasti(frame) <= code->_co_firsttraceable * (int)sizeof(uint16_t);
}

typedef struct {
    PyFrameObject *inner; /* the frame inside of this one that is not skipped; strong */
    int32_t highest;      /* the kind of the line's frame, -1 if there is none */
    PyObject *root;       /* the code of the task's coroutine, or NULL; borrowed */
    int own;              /* whether the last frame that was not skipped is ours */
} Search;

/* Considers a frame. 1 if the search is over, -1 with an exception. */
static int
consider(Target *target, Line *line, Search *search, PyFrameObject *frame, PyCodeObject *code)
{
    int32_t kind = kind_of(target, frame, code);
    if (kind < 0 || kind == KIND_RUNNER) {
        return kind < 0 ? -1 : 1;
    }
    if (kind == KIND_WITNESS) {
        if (search->own) {
            Py_CLEAR(search->inner); /* the application did not call it */
        }
        return 0;
    }
    search->own = kind == KIND_OWN;
    if (search->own) {
        line_set(line, NULL, NULL); /* what we call is our work */
        search->highest = -1;
    }
    else if (kind > search->highest) {
        line_set(line, frame, search->inner);
        search->highest = kind;
    }
    Py_XSETREF(search->inner, (PyFrameObject *)Py_NewRef((PyObject *)frame));
    return kind == KIND_APPLICATION || (PyObject *)code == search->root;
}

/* Finds the line, from the innermost frame on, whose reference is stolen. `safe` says that the frame
   is at an instruction where the interpreter may be interrupted. -1 with an exception. */
static int
find_line(Target *target, Line *line, PyFrameObject *frame, PyObject *root, int safe)
{
    Search search = {.highest = -1, .root = root};
    int over = 0;
    for (int depth = 0; frame != NULL && over == 0 && depth < MAX_FRAMES; depth++) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        PyFrameObject *outer = PyFrame_GetBack(frame);
        if (depth > 0 || !safe || (PyObject *)code == root || outer == NULL || !just_entered(frame, code)) {
            over = consider(target, line, &search, frame, code);
        }
        Py_DECREF(code);
        Py_SETREF(frame, outer);
    }
    Py_XDECREF(frame);
    Py_XDECREF(search.inner);
    return over < 0 ? -1 : 0;
}

/* The number of an entry that Python answered; MAX_HELD for later, -1 with an exception. */
static int32_t
entry_number(PyObject *answer)
{
    if (answer != NULL && PyLong_Check(answer) && PyLong_AsLong(answer) == HELD_LATER) {
        Py_DECREF(answer);
        return MAX_HELD;
    }
    return number_within(answer, MAX_HELD - 1);
}

/* Returns the entry of a line that was not met before; -1 with an exception. */
static int32_t
name_line(Target *target, int32_t record, const Line *line, int collecting)
{
    PyObject *code = (PyObject *)PyFrame_GetCode(line->frame), *globals = PyFrame_GetGlobals(line->frame);
    PyObject *below = Py_NewRef(Py_None);
    if (line->below != NULL) {
        Py_SETREF(below, Py_BuildValue("NN", PyFrame_GetCode(line->below), PyFrame_GetGlobals(line->below)));
    }
    PyObject *frame = below == NULL ? NULL : Py_BuildValue("OiO", code, PyFrame_GetLineNumber(line->frame), globals);
    PyObject *answer = frame == NULL ? NULL : call_uninterrupted(target->places, "frame", "(iOOi)", (int)record, frame, below, collecting);
    Py_XDECREF(frame);
    Py_XDECREF(below);
    Py_DECREF(globals);
    Py_DECREF(code);
    return entry_number(answer);
}

static int32_t
entry_of_line(Target *target, int32_t record, const Line *line)
{
    int collecting = atomic_load(&target->collecting);
    PyCodeObject *code = PyFrame_GetCode(line->frame), *below = line->below == NULL ? NULL : PyFrame_GetCode(line->below);
    uint64_t number = (uint64_t)(uint32_t)record << 32 | (uint64_t)collecting << 28 | (uint32_t)(PyFrame_GetLasti(line->frame) & 0xFFFFFFF);
    Key key = {(PyObject *)code, (PyObject *)below, NULL, number};
    int32_t entry = table_get(&target->entries, key);
    if (entry == TABLE_MISS) {
        entry = name_line(target, record, line, collecting);
        if (entry >= 0 && entry < MAX_HELD && table_put(&target->entries, key, entry) < 0) {
            entry = -1;
        }
    }
    Py_DECREF(code);
    Py_XDECREF(below);
    return entry;
}

/* Returns the entry that Python finds by a record and, if it is not negative, a yield point. */
static int32_t
entry_asked(Target *target, const char *method, int32_t record, int32_t point)
{
    Key key = {target->places, NULL, NULL, (uint64_t)(uint32_t)record << 32 | (uint32_t)point};
    int32_t entry = table_get(&target->points, key);
    if (entry != TABLE_MISS) {
        return entry;
    }
    PyObject *answer = point < 0 ? call_uninterrupted(target->places, method, "(i)", (int)record)
                                 : call_uninterrupted(target->places, method, "(ii)", (int)record, (int)point);
    entry = entry_number(answer);
    if (entry == MAX_HELD) {
        return entry;
    }
    return entry < 0 || table_put(&target->points, key, entry) < 0 ? -1 : entry;
}

/* --- what a sample stands for ------------------------------------------------------------------- */

static int64_t
word(const Target *target, int field)
{
    return *(volatile int64_t *)&target->page.loop[field];
}

/* Returns how long a loop whose turns are known was active since its last sample, for which the next
   one stands. The loop may be between the two words that are read here. What is left out then, or
   counted twice, is made up for at the next sample, since all of them add up to the active time. */
static int64_t
active_since_sample(Target *target, int64_t now_ns)
{
    int64_t active_ns = word(target, LOOP_ACTIVE_NS), since_ns = word(target, LOOP_TURN_SINCE_NS);
    active_ns += since_ns == 0 ? 0 : now_ns - since_ns;
    int64_t passed_ns = Py_MAX(active_ns - atomic_load(&target->sampled_ns), 0);
    atomic_fetch_add(&target->sampled_ns, passed_ns);
    return passed_ns;
}

/* Where turns are not known, a sample stands for the time since the last look, which is `elapsed_ns`.
   The loop may have waited for most of it, so that is at most `most_ns`, or what the segment has
   lasted. */
static int64_t
elapsed_since_look(Target *target, int64_t elapsed_ns, int64_t most_ns, int64_t lasted_ns)
{
    int64_t passed_ns = Py_MIN(elapsed_ns, Py_MAX(most_ns, lasted_ns));
    atomic_fetch_add(&target->sampled_ns, passed_ns);
    return passed_ns;
}

/* --- noting what is due ------------------------------------------------------------------------- */

/* The code of the coroutine whose segment is in progress, a new reference; NULL if it has none. */
static PyObject *
root_code(const Recorder *recorder)
{
    PyObject *coro = recorder->current == NULL ? NULL : recorder->current->coro;
    PyObject *code = coro == NULL || !PyCoro_CheckExact(coro) ? NULL : frame_code(coro, frame_is_read);
    if (code == NULL) {
        PyErr_Clear();
    }
    return Py_XNewRef(code);
}

/* Returns the entry of what the loop was at; MAX_HELD if that must wait, -1 with an exception. */
static int32_t
entry_of(Target *target, PyFrameObject *(*innermost)(unsigned long), int safe)
{
    Recorder *recorder = target->recorder;
    int64_t since_ns = atomic_load(&target->since_ns);
    int32_t record = atomic_load(&target->record);
    if (since_ns != target->page.loop[LOOP_SEGMENT_SINCE_NS]) {
        int known = since_ns != 0 && since_ns == recorder->ended_since_ns;
        return known ? entry_asked(target, "point", record, recorder->ended_point) : entry_asked(target, "unknown", record, -1);
    }
    Line line = {NULL, NULL};
    PyObject *root = root_code(recorder);
    int32_t entry = find_line(target, &line, innermost(atomic_load(&target->thread)), root, safe);
    if (entry == 0) {
        entry = line.frame == NULL ? entry_asked(target, "unknown", record, -1) : entry_of_line(target, record, &line);
    }
    line_set(&line, NULL, NULL);
    Py_XDECREF(root);
    return entry;
}

static int
note(Sampler *self, Target *target, PyFrameObject *(*innermost)(unsigned long), int safe)
{
    if (target->recorder == NULL || target->recorder->retired) {
        atomic_store(&target->samples, 0);
        atomic_store(&target->owed_ns, 0);
        return 0;
    }
    self->busy = 1;
    int32_t entry = entry_of(target, innermost, safe);
    self->busy = 0;
    if (entry < 0) {
        return error_of_shortage() ? 0 : -1;
    }
    if (entry == MAX_HELD) {
        return 0;
    }
    int64_t *held = page_held(&target->page, entry);
    page_begin_shared(&target->page);
    held[HELD_SAMPLES] += atomic_exchange(&target->samples, 0);
    held[HELD_ACTIVE_NS] += atomic_exchange(&target->owed_ns, 0);
    page_end_shared(&target->page);
    return 0;
}

/* Takes the sample of a loop that seemed to wait, if it has turned out that it was handling events.
   While the loop's thread runs Python, that is what it does, and then the page shows since when. */
static void
settle_wait(Target *target)
{
    int64_t looked_ns = atomic_exchange(&target->waited_at_ns, 0);
    Recorder *recorder = target->recorder;
    if (looked_ns == 0 || recorder == NULL || recorder->retired || atomic_load(&target->samples) > 0) {
        return;
    }
    if (recorder->gaps.phase == GAPS_POLLING) {
        recorder->gaps.poll_is_over(recorder->gaps.watch);
    }
    int64_t since_ns = target->page.loop[LOOP_TURN_SINCE_NS];
    if (since_ns == 0 || looked_ns < since_ns) {
        return;
    }
    int64_t *loop = target->page.loop;
    int in_gap = recorder->current == NULL && loop[LOOP_SEGMENT_SINCE_NS] <= looked_ns;
    atomic_store(&target->record, CALLBACKS);
    atomic_store(&target->since_ns, in_gap ? loop[LOOP_SEGMENT_SINCE_NS] : since_ns);
    atomic_store(&target->collecting, (int)loop[LOOP_COLLECTING]);
    atomic_store(&target->owed_ns, active_since_sample(target, looked_ns));
    atomic_store(&target->samples, 1);
}

static PyFrameObject *
own_frame(unsigned long Py_UNUSED(ident))
{
    return PyThreadState_GetFrame(PyThreadState_Get());
}

/* The pending call. It fails only if an interrupt of the application came while Python ran. */
static int
answer(void *Py_UNUSED(unused))
{
    Sampler *self = answering;
    if (self == NULL) {
        return 0;
    }
    atomic_store(&self->asked, 0);
    if (self->busy || self->process != process_id() || PyInterpreterState_Get() != PyInterpreterState_Main()) {
        return 0;
    }
    int result = 0;
    Py_INCREF(self);
    for (Target *target = atomic_load(&self->targets); target != NULL && result == 0; target = target->next) {
        if (atomic_load(&target->thread) != self->main_thread) {
            continue;
        }
        settle_wait(target);
        if (atomic_load(&target->samples) > 0) {
            result = note(self, target, own_frame, 1);
        }
    }
    Py_DECREF(self);
    return result;
}

/* --- looking without the GIL -------------------------------------------------------------------- */

static void
ask(Sampler *self)
{
    if (atomic_exchange(&self->asked, 1)) {
        return;
    }
    if (Py_AddPendingCall(answer, NULL) < 0) {
        atomic_store(&self->asked, 0);
        return;
    }
    breaker_set();
}

/* Looks at a loop that seems to wait for events. Only later it can be told whether it was handling
   some: by a pending call, which an idle loop makes when it wakes up. */
static void
look_at_wait(Target *target, int64_t now_ns)
{
    if (now_ns != 0 && atomic_load(&target->hides_events) && word(target, LOOP_POLL_SINCE_NS) != 0) {
        atomic_store(&target->waited_at_ns, now_ns);
    }
}

/* Looks whether a loop is active. Without a time, the sample stands for all that has elapsed. */
static int
look(Target *target, int64_t elapsed_ns, int64_t now_ns, int64_t most_ns)
{
    int64_t since_ns = word(target, LOOP_SEGMENT_SINCE_NS);
    if (since_ns == 0 && word(target, LOOP_TURN_SINCE_NS) == 0) {
        look_at_wait(target, now_ns);
        return 0;
    }
    int32_t record = since_ns == 0 ? NO_COROUTINE : (int32_t)word(target, LOOP_SEGMENT_COROUTINE);
    if (word(target, LOOP_SEGMENT_SINCE_NS) != since_ns) {
        return 0; /* in the middle of a change, which is a few ns */
    }
    int64_t lasted_ns = since_ns == 0 ? 0 : now_ns - since_ns;
    atomic_store(&target->record, record);
    atomic_store(&target->collecting, (int)word(target, LOOP_COLLECTING));
    atomic_store(&target->since_ns, since_ns);
    int known = now_ns != 0 && word(target, LOOP_TIMED);
    atomic_fetch_add(&target->owed_ns, known ? active_since_sample(target, now_ns) : elapsed_since_look(target, elapsed_ns, most_ns, lasted_ns));
    atomic_fetch_add(&target->samples, 1);
    return 1;
}

/* Looks at all loops and asks for what is found. Returns whether the GIL is needed. */
static int
look_at_all(Sampler *self, int64_t elapsed_ns, int64_t now_ns, int64_t most_ns)
{
    int answers = 0, needs_gil = 0;
    for (Target *target = atomic_load(&self->targets); target != NULL; target = target->next) {
        int main = atomic_load(&target->thread) == self->main_thread;
        if (!look(target, elapsed_ns, now_ns, most_ns)) {
            answers |= main && atomic_load(&target->waited_at_ns) != 0;
            continue;
        }
        answers |= main;
        needs_gil |= !main || atomic_load(&target->samples) > PATIENCE;
    }
    if (answers) {
        ask(self);
    }
    return needs_gil;
}

/* With the GIL: notes what is due of loops that cannot note it themselves. */
static int
note_others(Sampler *self)
{
    int result = 0;
    for (Target *target = atomic_load(&self->targets); target != NULL && result == 0 && !self->busy; target = target->next) {
        int64_t samples = atomic_load(&target->samples);
        if (samples > PATIENCE || (samples > 0 && atomic_load(&target->thread) != self->main_thread)) {
            result = note(self, target, stack_innermost, 0);
        }
    }
    return result;
}

/* Returns a random pause, distributed exponentially: then samples come at any moment with the same
   probability, whatever the rhythm of the loop. */
static int64_t
pause_ns(Sampler *self, int64_t interval_ns)
{
    self->draw ^= self->draw << 13;
    self->draw ^= self->draw >> 7;
    self->draw ^= self->draw << 17;
    double uniform = ((double)(self->draw >> 11) + 1) / 9007199254740993.0;
    return (int64_t)(fmin(-log(uniform), MAX_PAUSES) * (double)interval_ns);
}

/* The time by the system's clock, or `otherwise` where C cannot read it. */
static int64_t
now_without_gil(int64_t otherwise)
{
#ifdef CLOCK_SYSTEM
    otherwise = clock_read_system();
#endif
    return otherwise;
}

/* --- the type ----------------------------------------------------------------------------------- */

static PyObject *
sampler_run(PyObject *object, PyObject *arg)
{
    Sampler *self = (Sampler *)object;
    int64_t interval_ns = PyLong_AsLongLong(arg), now_ns = now_without_gil(0);
    if (interval_ns <= 0) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "an interval must be more than 0 ns, not %R", arg);
    }
    answering = self;
    for (Target *target = atomic_load(&self->targets); target != NULL; target = target->next) {
        (void)active_since_sample(target, now_ns);
    }
    int stopped = 0, failed = 0;
    while (!stopped && !failed) {
        int needs_gil = 0;
        PyThreadState *state = PyEval_SaveThread();
        while (!needs_gil && !stopped) {
            int64_t before_ns = now_ns, pause = pause_ns(self, interval_ns);
            stopped = PyThread_acquire_lock_timed(self->stopping, pause / 1000 + 1, 0) == PY_LOCK_ACQUIRED;
            now_ns = now_without_gil(before_ns + pause);
            if (!stopped) {
                needs_gil = look_at_all(self, now_ns - before_ns, now_ns, MAX_PAUSES * interval_ns);
            }
        }
        handover_return(state);
        failed = needs_gil && note_others(self) < 0;
    }
    if (stopped) {
        PyThread_release_lock(self->stopping);
    }
    if (answering == self) {
        answering = NULL;
    }
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyObject *
sampler_stop(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    Sampler *self = (Sampler *)object;
    if (!self->stopped) {
        self->stopped = 1;
        PyThread_release_lock(self->stopping);
    }
    Py_RETURN_NONE;
}

static PyObject *
sampler_tick(PyObject *object, PyObject *args)
{
    Sampler *self = (Sampler *)object;
    long long elapsed_ns, now_ns = 0;
    if (!PyArg_ParseTuple(args, "L|L:tick", &elapsed_ns, &now_ns)) {
        return NULL;
    }
    answering = self;
    if (look_at_all(self, elapsed_ns, now_ns, elapsed_ns) && note_others(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static Target *
target_of(Sampler *self, PyObject *page)
{
    Target *target = atomic_load(&self->targets);
    while (target != NULL && target->page_object != page) {
        target = target->next;
    }
    return target;
}

static void
target_free(Target *target)
{
    if (target->recorder != NULL) {
        sampler_forget(target->recorder);
    }
    Table *tables[] = {&target->kinds, &target->entries, &target->points};
    for (size_t number = 0; number < Py_ARRAY_LENGTH(tables); number++) {
        table_close(tables[number]);
    }
    if (target->page.buffer.obj != NULL) {
        page_close(&target->page);
    }
    Py_XDECREF(target->page_object);
    Py_XDECREF(target->places);
    PyMem_Free(target);
}

static Target *
target_new(PyObject *page, PyObject *places)
{
    Target *target = PyMem_Calloc(1, sizeof(Target));
    if (target == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (page_open(&target->page, page) < 0 || table_open(&target->kinds) < 0 || table_open(&target->entries) < 0 ||
        table_open(&target->points) < 0) {
        target_free(target);
        return NULL;
    }
    target->page_object = Py_NewRef(page);
    target->places = Py_NewRef(places);
    return target;
}

static PyObject *
sampler_watch(PyObject *object, PyObject *args)
{
    Sampler *self = (Sampler *)object;
    PyObject *subject, *places;
    if (!PyArg_ParseTuple(args, "O!O:watch", recorder_type, &subject, &places)) {
        return NULL;
    }
    Recorder *recorder = (Recorder *)subject;
    Target *target = target_of(self, recorder->page_object);
    if (target == NULL) {
        target = target_new(recorder->page_object, places);
        if (target == NULL) {
            return NULL;
        }
        target->next = atomic_load(&self->targets);
        atomic_store(&self->targets, target);
    }
    if (target->recorder != NULL) {
        sampler_forget(target->recorder);
    }
    sampler_forget(recorder);
    target->recorder = recorder;
    recorder->target = target;
    atomic_store(&target->sampled_ns, word(target, LOOP_ACTIVE_NS));
    sampler_note_thread(recorder);
    sampler_note_gaps(recorder);
    if (PyThread_get_thread_ident() == self->main_thread) {
        breaker_check();
    }
    Py_RETURN_NONE;
}

static PyObject *
sampler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"main_thread", NULL};
    unsigned long main_thread;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "k:Sampler", names, &main_thread)) {
        return NULL;
    }
    Sampler *self = (Sampler *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->stopping = PyThread_allocate_lock();
    if (self->stopping == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    (void)PyThread_acquire_lock(self->stopping, WAIT_LOCK);
    self->main_thread = main_thread;
    self->process = process_id();
    self->draw = SEED ^ (uint64_t)self->process << 17 ^ (uint64_t)(uintptr_t)self;
    return (PyObject *)self;
}

static void
sampler_dealloc(Sampler *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (answering == self) {
        answering = NULL;
    }
    Target *target = atomic_load(&self->targets);
    while (target != NULL) {
        Target *next = target->next;
        target_free(target);
        target = next;
    }
    if (self->stopping != NULL) {
        if (!self->stopped) {
            PyThread_release_lock(self->stopping);
        }
        PyThread_free_lock(self->stopping);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef sampler_methods[] = {
    {"watch", sampler_watch, METH_VARARGS, "Sample the loop of a recorder from now on."},
    {"run", sampler_run, METH_O, "Sample at random moments, so many ns apart on average, until stop()."},
    {"stop", sampler_stop, METH_NOARGS, "Make run() return."},
    {"tick", sampler_tick, METH_VARARGS, "Take one sample of each active loop, which stands for so many ns, or is taken at a given time."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sampler_slots[] = {
    {Py_tp_doc, "Samples which lines hold the loops; see aiometrics.recorder.sampler.Sampler."},
    {Py_tp_new, sampler_new},
    {Py_tp_dealloc, sampler_dealloc},
    {Py_tp_methods, sampler_methods},
    {0, NULL},
};

static PyType_Spec sampler_spec = {
    .name = "aiometrics.recorder._core.Sampler",
    .basicsize = sizeof(Sampler),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = sampler_slots,
};

int
sampler_init_module(PyObject *module)
{
    sampler_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &sampler_spec, NULL);
    return sampler_type == NULL ? -1 : PyModule_AddType(module, sampler_type);
}
