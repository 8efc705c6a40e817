#include "await_chain.h"
#include "clock.h"
#include "errors.h"
#include "hook.h"
#include "recorder.h"
#include "roots.h"
#include "sampler.h"
#include "scope.h"

#include <structmember.h>

PyTypeObject *recorder_type;
static PyObject *cancelled_error, *iscoroutine;
static const char *const pseudo_names[PSEUDO_POINTS] = {
    [AT_RETURN] = RETURN_NAME, [AT_RAISE] = RAISE_NAME, [AT_EAGER_CHILD] = EAGER_CHILD_NAME};

/* The exception that the application has in flight, put aside while Python runs for us. */
#if PY_VERSION_HEX >= 0x030C0000
typedef struct {
    PyObject *value;
} Pending;

static Pending
pending_save(void)
{
    return (Pending){PyErr_GetRaisedException()};
}

/* Unless an interrupt has come: then that goes first. */
static void
pending_restore(Pending pending, int interrupted)
{
    if (interrupted) {
        Py_XDECREF(pending.value);
        return;
    }
    PyErr_SetRaisedException(pending.value);
}
#else
typedef struct {
    PyObject *type, *value, *traceback;
} Pending;

static Pending
pending_save(void)
{
    Pending pending;
    PyErr_Fetch(&pending.type, &pending.value, &pending.traceback);
    return pending;
}

static void
pending_restore(Pending pending, int interrupted)
{
    if (interrupted) {
        Py_XDECREF(pending.type);
        Py_XDECREF(pending.value);
        Py_XDECREF(pending.traceback);
        return;
    }
    PyErr_Restore(pending.type, pending.value, pending.traceback);
}
#endif

void
recorder_retire(Recorder *self)
{
    self->retired = 1;
    self->current = NULL;
    sampler_forget(self);
}

/* An error of ours: reported and gone, and this recorder with it; what was true of the tasks at this moment is not known any more.
   Nothing happens to a recorder that was retired while Python ran for it: its page may belong to somebody else.
   The application's own error must have been put aside. -1 with an exception if it was an interrupt, which is the application's. */
int
recorder_fail(Recorder *self)
{
    PyObject *error = error_taken();
    if (!self->retired) {
        recorder_retire(self);
        PyObject *closed = PyObject_CallMethod(self->page_object, "close", NULL);
        if (closed == NULL) {
            error_clear();
        }
        Py_XDECREF(closed);
        error_report(self->internal_errors, RECORDER_PROBE, error);
    }
    return error_done(error);
}

int32_t
number_within(PyObject *answer, Py_ssize_t most)
{
    if (answer == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(answer);
    Py_DECREF(answer);
    if (number < 0 || number > most) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "record %ld is not in the page", number);
        }
        return -1;
    }
    return (int32_t)number;
}

/* A record that was asked for, or (other) if the application has used up its stack or its memory: another one will be named. */
static int32_t
or_other(int32_t number)
{
    return number < 0 && error_of_shortage() ? 0 : number;
}

static int32_t
pseudo_point(Recorder *self, int32_t record, PseudoPoint which)
{
    int32_t *known = &self->pseudo[record][which];
    if (*known >= 0) {
        return *known;
    }
    PyObject *answer = call_uninterrupted(self->labels, "pseudo_point", "(is)", (int)record, pseudo_names[which]);
    *known = number_within(answer, self->page.last_point);
    return or_other(*known);
}

int32_t
recorder_request_wait(Recorder *self, int32_t request, int32_t point)
{
    Key key = {self->page_object, NULL, NULL, (uint64_t)(uint32_t)request << 32 | (uint32_t)point};
    int32_t record = table_get(&self->request_waits, key);
    if (record != TABLE_MISS) {
        return record;
    }
    PyObject *answer = call_uninterrupted(self->labels, "request_wait", "(ii)", (int)request, (int)point);
    record = number_within(answer, self->page.last_request_wait);
    return or_other(record < 0 || table_put(&self->request_waits, key, record) < 0 ? -1 : record);
}

/* --- what the page shows ------------------------------------------------------------------------------------------------------ */

static void
show(Recorder *self, Traced *traced)
{
    int64_t *loop = self->page.loop;
    self->current = traced;
    loop[LOOP_SEGMENT_SINCE_NS] = traced == NULL ? 0 : traced->since_ns;
    loop[LOOP_SEGMENT_COROUTINE] = traced == NULL ? 0 : traced->record;
    loop[LOOP_SEGMENT_COUNTED_NS] = traced == NULL ? 0 : traced->counted_ns;
}

static void
link_waiting(Recorder *self, Traced *traced)
{
    Waiting *waiting = &self->waiting[traced->point];
    int64_t *point = page_point(&self->page, traced->point);
    traced->older = waiting->newest;
    traced->newer = NULL;
    if (waiting->newest != NULL) {
        waiting->newest->newer = traced;
    }
    else {
        waiting->oldest = traced;
        point[POINT_OLDEST_NS] = traced->since_ns;
    }
    waiting->newest = traced;
    point[POINT_SUSPENDED] += 1;
}

static void
unlink_waiting(Recorder *self, Traced *traced)
{
    Waiting *waiting = &self->waiting[traced->point];
    int64_t *point = page_point(&self->page, traced->point);
    if (traced->newer != NULL) {
        traced->newer->older = traced->older;
    }
    else {
        waiting->newest = traced->older;
    }
    if (traced->older != NULL) {
        traced->older->newer = traced->newer;
    }
    else {
        waiting->oldest = traced->newer;
        point[POINT_OLDEST_NS] = waiting->oldest == NULL ? 0 : waiting->oldest->since_ns;
    }
    point[POINT_SUSPENDED] -= 1;
}

/* Makes final what readers counted under (running) for the segment in progress. Where turns are not timed that is active time, too, which
   the segment brings when it ends. */
static void
settle(Recorder *self, Traced *traced)
{
    int64_t looked_at_ns = self->page.loop[LOOP_LOOKED_NS] - traced->since_ns;
    int64_t counted_ns = looked_at_ns - traced->counted_ns;
    if (looked_at_ns < self->page.threshold_ns || counted_ns <= 0) {
        return;
    }
    traced->counted_ns += counted_ns;
    page_coroutine(&self->page, traced->record)[COROUTINE_RUNNING_NS] += counted_ns;
    self->page.loop[LOOP_BLOCKING_NS] += counted_ns;
    if (!self->page.loop[LOOP_TIMED]) {
        self->page.loop[LOOP_ACTIVE_NS] += counted_ns * self->page.weight;
    }
}

/* --- gaps between segments ---------------------------------------------------------------------------------------------------- */

SELDOM static void block(Recorder *self, Traced *traced, int32_t point, int64_t segment_ns);

static void
gap_begin(Recorder *self, int64_t now)
{
    Traced *gap = self->gaps.frame;
    gap->since_ns = now;
    gap->counted_ns = 0;
    show(self, gap);
    self->current = NULL;
}

/* Counts a gap that blocks the loop, and the wait that it inflicts on the handles behind it. The size of their queue is all that is
   read of it, since this may be without the GIL. `behind` is the number of those that have left it since. */
SELDOM static void
gap_block(Recorder *self, int64_t gap_ns, int64_t behind)
{
    int32_t point = self->gaps.points[self->gaps.phase];
    block(self, self->gaps.frame, point, gap_ns);
    if (gap_ns >= self->page.threshold_ns && self->gaps.ready != NULL) {
        page_point(&self->page, point)[POINT_INFLICTED_WAIT_NS] += gap_ns * (behind + Py_SIZE(self->gaps.ready));
    }
}

static void
gap_end(Recorder *self, int64_t now, int64_t behind)
{
    Traced *gap = self->gaps.frame;
    int64_t gap_ns = Py_MAX(now - gap->since_ns, 0);
    self->gaps.sum_ns += gap_ns;
    if (gap_ns >= self->page.threshold_ns || self->page.loop[LOOP_LOOKED_NS] - gap->since_ns >= self->page.threshold_ns) {
        gap_block(self, gap_ns, behind);
    }
}

/* A segment begins that interrupts no other. Its task comes from the queue, unless the gap created it, so that it starts eagerly. */
static void
gap_interrupt(Recorder *self, const Traced *traced, int64_t now)
{
    if (self->gaps.phase == GAPS_POLLING) {
        self->gaps.poll_is_over(self->gaps.watch);
    }
    if (self->gaps.phase >= GAPS_EVENTS) {
        gap_end(self, now, traced->created_ns < self->gaps.frame->since_ns);
    }
}

/* Adds the gaps of a phase to its row. */
static void
gaps_settle(Recorder *self)
{
    int32_t point = self->gaps.points[self->gaps.phase];
    int64_t sum_ns = self->gaps.sum_ns;
    if (sum_ns == 0) {
        return;
    }
    page_count_segment(&self->page, AT_START, point, sum_ns);
    self->gaps.sum_ns = 0;
}

void
recorder_gap_phase(Recorder *self, GapPhase phase, int64_t since)
{
    if (self->retired || self->gaps.frame == NULL) {
        return;
    }
    page_begin_shared(&self->page);
    if (self->gaps.phase >= GAPS_EVENTS) {
        if (self->current == NULL) {
            gap_end(self, since, 0);
        }
        gaps_settle(self);
    }
    self->gaps.phase = phase;
    if (phase >= GAPS_EVENTS && self->current == NULL) {
        gap_begin(self, since);
    }
    else {
        show(self, self->current);
    }
    page_end_shared(&self->page);
}

int
recorder_open_gaps(Recorder *self, const int32_t *points, const PyObject *ready, void (*poll_is_over)(void *watch), void *watch)
{
    self->gaps.frame = PyMem_RawCalloc(1, sizeof(Traced));
    if (self->gaps.frame == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->gaps.frame->record = CALLBACKS;
    self->gaps.frame->point = AT_START;
    memcpy(self->gaps.points, points, sizeof(self->gaps.points));
    self->gaps.poll_is_over = poll_is_over;
    self->gaps.watch = watch;
    self->gaps.ready = ready;
    sampler_note_gaps(self);
    return 0;
}

/* --- segments ----------------------------------------------------------------------------------------------------------------- */

/* A segment begins; one that is in progress, whose eager child this is, stands still meanwhile. */
static void
enter(Recorder *self, Traced *traced, int64_t now)
{
    Traced *outer = self->current;
    if (outer != NULL) {
        settle(self, outer);
        outer->paused_ns = now;
    }
    else if (self->gaps.phase != GAPS_OFF) {
        gap_interrupt(self, traced, now);
    }
    traced->state = RUNNING;
    traced->outer = outer;
    traced->since_ns = now;
    traced->counted_ns = 0;
    show(self, traced);
}

/* Takes a segment from among those in progress. It is the innermost, unless threads or greenlets step tasks of one loop by turns; even
   then none may go on to refer to it. */
SELDOM static void
unchain(Recorder *self, Traced *traced)
{
    Traced **place = &self->current;
    while (*place != NULL && *place != traced) {
        place = &(*place)->outer;
    }
    if (*place != NULL) {
        *place = traced->outer;
    }
    traced->outer = NULL;
    show(self, self->current);
}

/* The first wait at a point ends. Only those of one coroutine need bits of their own; (other), where any task may wait, has one. */
SELDOM static uint64_t
first_visit(Recorder *self, int32_t record, int32_t point)
{
    uint8_t *taken = &self->visits[record];
    uint64_t visit = point == 0 ? 1 : UINT64_C(2) << *taken;
    if (point != 0) {
        *taken = (uint8_t)((*taken + 1) % VISITS);
    }
    self->waiting[point].visit = visit;
    return visit;
}

static inline void
waited(Recorder *self, Traced *traced, int32_t point, int64_t wait_ns)
{
    page_count_wait(&self->page, point, wait_ns);
    uint64_t visit = self->waiting[point].visit;
    if (visit == 0) {
        visit = first_visit(self, traced->record, point);
    }
    if ((traced->visited & visit) == 0) {
        traced->visited |= visit;
        page_point(&self->page, point)[POINT_WAIT_TASKS] += 1;
    }
    if (traced->scope != NULL) {
        scope_charge_wait(traced->scope, point, wait_ns);
    }
}

/* A segment ends; the one that it interrupted goes on. */
static inline void
leave(Recorder *self, Traced *traced, int64_t now)
{
    Traced *outer = traced->outer;
    if (self->current != traced) {
        unchain(self, traced);
        return;
    }
    if (outer != NULL) {
        int64_t paused_ns = now - outer->paused_ns;
        outer->since_ns += paused_ns;
        waited(self, outer, Py_MAX(self->pseudo[outer->record][AT_EAGER_CHILD], 0), paused_ns);
    }
    traced->outer = NULL;
    show(self, outer);
}

static void
block(Recorder *self, Traced *traced, int32_t point, int64_t segment_ns)
{
    settle(self, traced);
    int64_t counted_ns = Py_MIN(traced->counted_ns, segment_ns);
    page_point(&self->page, point)[POINT_BLOCKING_NS] += segment_ns - counted_ns;
    self->page.loop[LOOP_BLOCKING_NS] += segment_ns - counted_ns;
    if (!self->page.loop[LOOP_TIMED]) {
        self->page.loop[LOOP_ACTIVE_NS] -= counted_ns * self->page.weight;
    }
}

/* Whatever may run Python comes before or after this, since any of it may step tasks: a finalizer can start an eager one.
   Returns how long the segment was. */
static inline int64_t
finish_segment(Recorder *self, Traced *traced, int32_t point, int64_t now)
{
    int64_t segment_ns = now - traced->since_ns;
    traced->active_ns += segment_ns;
    page_count_segment(&self->page, traced->point, point, segment_ns);
    self->ended_since_ns = traced->since_ns;
    self->ended_point = point;
    if (traced->scope != NULL) {
        scope_charge_segment(traced->scope, traced, point, segment_ns - traced->divided_ns, now);
        traced->divided_ns = 0;
    }
    /* A reader in another process may look between the end of the segment and this, and what it counted stays counted. */
    if (segment_ns >= self->page.threshold_ns || self->page.loop[LOOP_LOOKED_NS] - traced->since_ns >= self->page.threshold_ns) {
        block(self, traced, point, segment_ns);
    }
    leave(self, traced, now);
    if (self->gaps.phase >= GAPS_EVENTS && self->current == NULL) {
        gap_begin(self, now);
    }
    return segment_ns;
}

SELDOM static int
prepare_outer(Recorder *self, const Traced *outer)
{
    return pseudo_point(self, outer->record, AT_EAGER_CHILD) < 0 || self->retired ? -1 : 0;
}

/* Before a segment of `traced` is finished, after its point was named: so is the wait that it was of the one that it interrupted. If
   tasks were stepped meanwhile, which moved `since_ns` up, the segment lasts until now. -1 with an exception, or without one if the
   recorder was retired while Python ran: then nothing of it may be touched any more, since tasks that went meanwhile are still in its
   lists. So it is with everything that may run Python. */
static inline int
prepare(Recorder *self, Traced *traced, int32_t point, int64_t since_ns, int64_t *now)
{
    if (point < 0 || self->retired) {
        return -1;
    }
    if (traced->outer != NULL && prepare_outer(self, traced->outer) < 0) {
        return -1;
    }
    return traced->since_ns != since_ns && clock_read(self->clock, now) < 0 ? -1 : 0;
}

SELDOM static int
tell_blocked(Recorder *self, int32_t point, int64_t segment_ns)
{
    PyObject *args = Py_BuildValue("(iL)", (int)point, (long long)segment_ns);
    PyObject *done = args == NULL ? NULL : call_unseen(self->blocked, args);
    Py_XDECREF(args);
    Py_XDECREF(done);
    return done == NULL && !error_deferred() && !error_of_shortage() ? -1 : 0;
}

/* After a segment was finished: tells who asked of those that block. -1 with an exception. */
static inline int
tell(Recorder *self, int32_t point, int64_t segment_ns)
{
    return segment_ns < self->page.threshold_ns || self->blocked == NULL ? 0 : tell_blocked(self, point, segment_ns);
}

int
recorder_resume(Recorder *self, Traced *traced)
{
    if (self->retired || traced->state == RUNNING || traced->state == DONE) {
        return 0;
    }
    int64_t now;
    if (clock_read(self->clock, &now) < 0 || self->retired) {
        return recorder_fail(self);
    }
    page_begin(&self->page);
    if (traced->state == SUSPENDED) {
        waited(self, traced, traced->point, now - traced->since_ns);
        int64_t *node = page_node(&self->page, traced->node);
        node[CHAIN_NODE_WAIT_NS] += now - traced->since_ns;
        node[CHAIN_NODE_WAITS] += 1;
        unlink_waiting(self, traced);
    }
    else {
        recorder_admit(self, traced);
        sampler_note_thread(self);
        if (!traced->adopted) {
            observe(self->page.start_delay, &self->page.segment, now - traced->created_ns);
        }
        if (scope_ever_entered) {
            scope_attach(self, traced);
        }
    }
    enter(self, traced, now);
    page_end(&self->page);
    return 1;
}

static int
suspend(Recorder *self, Traced *traced, PyObject *yielded)
{
    int64_t now, since_ns = traced->since_ns;
    if (clock_read(self->clock, &now) < 0) {
        return -1;
    }
    Place place;
    if (locate(self, traced, yielded, &place) < 0) {
        if (!error_of_shortage()) {
            return -1;
        }
        place = (Place){.point = 0, .node = OTHER_POINT_NODE};
    }
    if (prepare(self, traced, place.point, since_ns, &now) < 0) {
        return -1;
    }
    page_begin(&self->page);
    int64_t segment_ns = finish_segment(self, traced, place.point, now);
    page_node(&self->page, place.node)[CHAIN_NODE_ACTIVE_NS] += segment_ns;
    traced->state = SUSPENDED;
    traced->point = place.point;
    traced->node = place.node;
    traced->since_ns = now;
    link_waiting(self, traced);
    page_end(&self->page);
    return tell(self, place.point, segment_ns);
}

int
recorder_suspend(Recorder *self, Traced *traced, PyObject *yielded)
{
    return !self->retired && suspend(self, traced, yielded) < 0 ? recorder_fail(self) : 0;
}

static int
end(Recorder *self, Traced *traced, Status status)
{
    int64_t now, since_ns = traced->since_ns;
    if (clock_read(self->clock, &now) < 0) {
        return -1;
    }
    int32_t point = pseudo_point(self, traced->record, status == COMPLETED ? AT_RETURN : AT_RAISE);
    if (prepare(self, traced, point, since_ns, &now) < 0) {
        return -1;
    }
    page_begin(&self->page);
    int64_t segment_ns = finish_segment(self, traced, point, now);
    if (!traced->adopted) {
        observe(page_wall(&self->page, traced->record, (int)status), &self->page.wait, now - traced->created_ns);
        observe(page_active(&self->page, traced->record, (int)status), &self->page.wait, traced->active_ns);
    }
    page_coroutine(&self->page, traced->record)[COROUTINE_LIVE] -= 1;
    page_end(&self->page);
    return tell(self, point, segment_ns);
}

int
recorder_end(Recorder *self, Traced *traced, Status status)
{
    traced->state = DONE;
    if (self->retired) {
        return 0;
    }
    Pending pending = pending_save();
    int result = end(self, traced, status) < 0 ? recorder_fail(self) : 0;
    if (traced->scope != NULL) {
        scope_detach(traced);
    }
    pending_restore(pending, result);
    return result;
}

/* How a coroutine ended, by the exception in flight. */
Status
recorder_status(void)
{
    if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return COMPLETED;
    }
    return PyErr_ExceptionMatches(cancelled_error) || PyErr_ExceptionMatches(PyExc_GeneratorExit) ? CANCELLED : FAILED;
}

/* A callback begins that is no step of a task: `frame` stands for it. Tells whether it is timed at all. */
int
recorder_enter_callback(Recorder *self, Traced *frame)
{
    int64_t now;
    if (self->retired) {
        return 0;
    }
    if (clock_read(self->clock, &now) < 0 || self->retired) {
        return recorder_fail(self);
    }
    frame->record = CALLBACKS;
    frame->point = AT_START;
    sampler_note_thread(self);
    page_begin(&self->page);
    enter(self, frame, now);
    page_end(&self->page);
    return 1;
}

static int
leave_callback(Recorder *self, Traced *frame, PyObject *callback)
{
    int64_t now, since_ns = frame->since_ns;
    if (clock_read(self->clock, &now) < 0) {
        return -1;
    }
    int32_t point = or_other(locate_callback(self, callback));
    if (prepare(self, frame, point, since_ns, &now) < 0) {
        return -1;
    }
    page_begin(&self->page);
    int64_t segment_ns = finish_segment(self, frame, point, now);
    page_end(&self->page);
    return tell(self, point, segment_ns);
}

int
recorder_leave_callback(Recorder *self, Traced *frame, PyObject *callback)
{
    if (self->retired) {
        return 0;
    }
    Pending pending = pending_save();
    int result = leave_callback(self, frame, callback) < 0 ? recorder_fail(self) : 0;
    pending_restore(pending, result);
    return result;
}

/* The coroutine is garbage. If its task was not done, that is lost. */
void
recorder_lose(Recorder *self, Traced *traced)
{
    if (self->retired || traced->state == DONE || traced->state == OFFERED) {
        return;
    }
    int64_t *record = page_coroutine(&self->page, traced->record);
    page_begin_shared(&self->page);
    record[COROUTINE_LIVE] -= 1;
    record[COROUTINE_DESTROYED_PENDING] += 1;
    if (traced->state == SUSPENDED) {
        unlink_waiting(self, traced);
    }
    else if (traced->state == RUNNING) {
        unchain(self, traced);
    }
    page_end_shared(&self->page);
}

/* --- creation ----------------------------------------------------------------------------------------------------------------- */

/* One task in `weight`, drawn by xorshift so that no pattern of creation can fool it. */
static int
sampled(Recorder *self)
{
    if (self->page.weight == 1) {
        return 1;
    }
    self->draw ^= self->draw << 13;
    self->draw ^= self->draw >> 7;
    self->draw ^= self->draw << 17;
    return self->draw % (uint64_t)self->page.weight == 0;
}

/* The record of a root coroutine by its code; -1 with an exception. Other tools' wrappers are asked for every time. */
static int32_t
record_of(Recorder *self, PyObject *coro)
{
    PyObject *code = NULL;
    if (chain_is_generator(coro) && (code = Py_XNewRef(frame_code(coro, frame_is_read))) != NULL) {
        int32_t record = table_get_one(&self->records, code);
        if (record != TABLE_MISS) {
            Py_DECREF(code);
            return record;
        }
    }
    int32_t record = number_within(call_uninterrupted(self->labels, "coroutine", "(O)", coro), self->page.last_coroutine);
    if (code == NULL || record < 0) {
        Py_XDECREF(code);
        return record;
    }
    PyObject *transparent = call_uninterrupted(self->labels, "transparent", "(O)", coro);
    if (transparent == NULL || (transparent == Py_False && table_put(&self->records, (Key){code, NULL, NULL, 0}, record) < 0)) {
        record = -1;
    }
    Py_XDECREF(transparent);
    Py_DECREF(code);
    return record;
}

/* Whether a task takes it; if not, or if it cannot be told, asyncio shall say so. */
static int
is_coroutine(PyObject *object)
{
    if (PyCoro_CheckExact(object)) {
        return 1;
    }
    PyObject *answer = PyObject_CallOneArg(iscoroutine, object);
    int truth = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (truth < 0) {
        error_clear();
    }
    return truth > 0;
}

static void
describe(Recorder *self, Traced *traced, int32_t record, int64_t created_ns)
{
    traced->recorder = self;
    traced->number = ++self->traced;
    traced->creator = self->current == NULL ? 0 : self->current->number;
    traced->created_ns = created_ns;
    traced->record = record;
    traced->point = AT_START;
    traced->state = OFFERED;
}

/* A built-in coroutine in the table of roots; NULL with an exception. What runs to name it may have put it there. */
static Traced *
enter_root(Recorder *self, PyObject *coro, int32_t record, int64_t created_ns)
{
    Traced *traced = roots_get(coro);
    if (traced == NULL && (traced = roots_add(coro)) != NULL) {
        describe(self, traced, record, created_ns);
    }
    return traced;
}

static PyObject *
wrap(Recorder *self, PyObject *coro, int32_t record, int64_t created_ns)
{
    PyObject *wrapper = traced_new(coro, self);
    if (wrapper != NULL) {
        describe(self, traced_record(wrapper), record, created_ns);
    }
    return wrapper;
}

static PyObject *
offer(Recorder *self, PyObject *coro)
{
    int32_t record = or_other(record_of(self, coro));
    int64_t now;
    if (record < 0 || clock_read(self->clock, &now) < 0) {
        return NULL;
    }
    if (!PyCoro_CheckExact(coro)) {
        return wrap(self, coro, record, now);
    }
    return enter_root(self, coro, record, now) == NULL ? NULL : Py_NewRef(coro);
}

/* Whether a root was offered before. */
static int
is_known(PyObject *coro)
{
    return PyCoro_CheckExact(coro) ? roots_get(coro) != NULL : Py_IS_TYPE(coro, traced_type);
}

/* Remembers a root that was not drawn, so that it is not adopted later. */
static int
leave_out(PyObject *coro)
{
    return PyCoro_CheckExact(coro) ? roots_leave_out(coro, ROOT_LEFT_OUT) : 0;
}

PyObject *
recorder_offer(Recorder *self, PyObject *coro)
{
    if (self->retired || is_known(coro) || !is_coroutine(coro)) {
        return Py_NewRef(coro);
    }
    PyObject *offered = sampled(self) ? offer(self, coro) : leave_out(coro) < 0 ? NULL : Py_NewRef(coro);
    if (offered == NULL && error_of_shortage()) {
        return Py_NewRef(coro); /* it is adopted at its first step */
    }
    return offered != NULL ? offered : recorder_fail(self) < 0 ? NULL : Py_NewRef(coro);
}

static Traced *
adopt(Recorder *self, PyObject *coro)
{
    if (!sampled(self)) {
        return leave_out(coro) < 0 ? NULL : &roots_left_out;
    }
    int32_t record = or_other(record_of(self, coro));
    int64_t now;
    if (record < 0 || clock_read(self->clock, &now) < 0) {
        return NULL;
    }
    Traced *traced = enter_root(self, coro, record, now);
    if (traced != NULL) {
        traced->adopted = 1;
    }
    return traced;
}

Traced *
recorder_adopt(Recorder *self, PyObject *coro)
{
    Traced *traced = self->retired ? NULL : adopt(self, coro);
    if (traced == NULL && !self->retired) {
        (void)recorder_fail(self);
    }
    return traced;
}

void
recorder_admit(Recorder *self, Traced *traced)
{
    if (traced->state != OFFERED) {
        return;
    }
    traced->state = NEW;
    if (!self->retired) {
        int64_t *words = page_coroutine(&self->page, traced->record);
        page_begin_shared(&self->page);
        words[COROUTINE_CREATED] += !traced->adopted;
        words[COROUTINE_LIVE] += 1;
        page_end_shared(&self->page);
    }
}

/* --- the type ----------------------------------------------------------------------------------------------------------------- */

static int
tables_open(Recorder *self)
{
    Table *tables[] = {&self->records, &self->origins, &self->hops, &self->transports, &self->points, &self->request_waits};
    for (size_t number = 0; number < Py_ARRAY_LENGTH(tables); number++) {
        if (table_open(tables[number]) < 0) {
            return -1;
        }
    }
    if (chains_open(&self->chains) < 0) {
        return -1;
    }
    self->waiting = PyMem_Calloc((size_t)self->page.last_point + 1, sizeof(Waiting));
    self->visits = PyMem_Calloc((size_t)self->page.last_coroutine + 1, sizeof(*self->visits));
    self->pseudo = PyMem_Malloc(((size_t)self->page.last_coroutine + 1) * sizeof(*self->pseudo));
    if (self->waiting == NULL || self->visits == NULL || self->pseudo == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(self->pseudo, 0xFF, ((size_t)self->page.last_coroutine + 1) * sizeof(*self->pseudo)); /* -1: not known yet */
    return 0;
}

static PyObject *
recorder_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"page", "labels", "internal_errors", "clock", "blocked", "seed", NULL};
    PyObject *page, *labels, *internal_errors, *clock = NULL, *blocked = NULL;
    unsigned long long seed = SEED;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|$OOK:Recorder", names, &page, &labels, &internal_errors, &clock, &blocked, &seed)) {
        return NULL;
    }
    Recorder *self = (Recorder *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (page_open(&self->page, page) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->page_object = Py_NewRef(page);
    self->labels = Py_NewRef(labels);
    self->internal_errors = Py_NewRef(internal_errors);
    self->clock = clock_kept(clock);
    self->blocked = blocked == NULL || blocked == Py_None ? NULL : Py_NewRef(blocked);
    self->draw = seed;
    if (tables_open(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* No tp_clear: nothing that a recorder refers to refers back to it but through containers that can be cleared themselves. */
static int
recorder_traverse(Recorder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->page_object);
    Py_VISIT(self->labels);
    Py_VISIT(self->internal_errors);
    Py_VISIT(self->clock);
    Py_VISIT(self->blocked);
    Table *tables[] = {&self->records, &self->origins, &self->hops, &self->transports, &self->points, &self->request_waits};
    for (size_t number = 0; number < Py_ARRAY_LENGTH(tables); number++) {
        int result = table_traverse(tables[number], visit, arg);
        if (result) {
            return result;
        }
    }
    return chains_traverse(&self->chains, visit, arg);
}

static void
recorder_dealloc(Recorder *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    sampler_forget(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    roots_forget(self);
    Table *tables[] = {&self->records, &self->origins, &self->hops, &self->transports, &self->points, &self->request_waits};
    for (size_t number = 0; number < Py_ARRAY_LENGTH(tables); number++) {
        table_close(tables[number]);
    }
    chains_close(&self->chains);
    PyMem_Free(self->waiting);
    PyMem_Free(self->visits);
    PyMem_Free(self->pseudo);
    PyMem_RawFree(self->gaps.frame);
    if (self->page.buffer.obj != NULL) {
        page_close(&self->page);
    }
    Py_XDECREF(self->page_object);
    Py_XDECREF(self->labels);
    Py_XDECREF(self->internal_errors);
    Py_XDECREF(self->clock);
    Py_XDECREF(self->blocked);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
method_retire(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    recorder_retire((Recorder *)self);
    hook_forget((Recorder *)self);
    Py_RETURN_NONE;
}

static PyObject *
get_page(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((Recorder *)self)->page_object);
}

static PyObject *
get_retired(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((Recorder *)self)->retired);
}

static PyMethodDef recorder_methods[] = {
    {"retire", method_retire, METH_NOARGS, "Stop for good; steps of coroutines that are still traced only pass through."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef recorder_getset[] = {
    {"page", get_page, NULL, "The page written to.", NULL},
    {"retired", get_retired, NULL, "Whether it has stopped.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef recorder_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Recorder, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot recorder_slots[] = {
    {Py_tp_doc, "Writes what happens to one loop's tasks into its page; see aiometrics.recorder.recorder.Recorder."},
    {Py_tp_new, recorder_tp_new},
    {Py_tp_dealloc, recorder_dealloc},
    {Py_tp_traverse, recorder_traverse},
    {Py_tp_methods, recorder_methods},
    {Py_tp_getset, recorder_getset},
    {Py_tp_members, recorder_members},
    {0, NULL},
};

static PyType_Spec recorder_spec = {
    .name = "aiometrics.recorder._core.Recorder",
    .basicsize = sizeof(Recorder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = recorder_slots,
};

static PyObject *
import_from(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return found;
}

int
recorder_init_module(PyObject *module)
{
    cancelled_error = import_from("asyncio.exceptions", "CancelledError");
    iscoroutine = cancelled_error == NULL ? NULL : import_from("asyncio.coroutines", "iscoroutine");
    if (iscoroutine == NULL || clock_init() < 0) {
        return -1;
    }
    recorder_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &recorder_spec, NULL);
    return recorder_type == NULL ? -1 : PyModule_AddType(module, recorder_type);
}
