#include "slot.h"

#include "errors.h"
#include "hook.h"
#include "patch.h"
#include "recorder.h"
#include "roots.h"
#include "scope.h"

/* The interpreter whose coroutines are in the table, and while nothing is hooked NULL. */
static PyInterpreterState *interpreter;

/* The root whose step this thread is in, the innermost one; only compared with NULL. */
static _Thread_local const void *stepped;

static PySendResult hooked_am_send(PyObject *coro, PyObject *value, PyObject **result);
static PyObject *hooked_send(PyObject *coro, PyObject *value);
static PyObject *hooked_throw(PyObject *coro, PyObject *const *args, Py_ssize_t count);
static PyObject *hooked_close(PyObject *coro, PyObject *ignored);
static void hooked_dealloc(PyObject *coro);
static int hooked_traverse(PyObject *coro, visitproc visit, void *arg);

typedef PyObject *(*FastMethod)(PyObject *, PyObject *const *, Py_ssize_t);

static Patch am_send = {.name = "coroutine.am_send", .ours = (Function)hooked_am_send};
static Patch send_method = {.name = "coroutine.send", .ours = (Function)hooked_send};
static Patch throw_method = {.name = "coroutine.throw", .ours = (Function)hooked_throw};
static Patch close_method = {.name = "coroutine.close", .ours = (Function)hooked_close};
static Patch dealloc = {.name = "coroutine.tp_dealloc", .ours = (Function)hooked_dealloc};
static Patch traverse = {.name = "coroutine.tp_traverse", .ours = (Function)hooked_traverse};
static Patch *const patches[] = {&am_send, &send_method, &throw_method, &close_method, &dealloc, &traverse};

/* Asking for the place takes a call, which a compiler that knows where it comes from would repeat. */
static inline const void **
place_of_stepped(void)
{
    const void **place = &stepped;
#if defined(__GNUC__)
    __asm__("" : "+r"(place));
#endif
    return place;
}

/* Whether a coroutine cannot be in the table, which the interpreter lock of this interpreter guards. */
static inline int
passes(void)
{
    return PyInterpreterState_Get() != interpreter;
}

/* --- whose step it is --------------------------------------------------------------------------------------------------------- */

/* Stands for a step that must not be made, because an interrupt of the application is set. */
static Traced interrupted;

/* A root that is new is adopted if it is that of the task that runs on a loop that is traced. Otherwise it is refused, and not looked at
   again as long as the same loops are traced. */
static Traced *
adopt_on(PyObject *loop, PyObject *coro)
{
    Recorder *recorder = hook_recorder_of(loop);
    Traced *traced = recorder == NULL ? NULL : recorder_adopt(recorder, coro);
    if (traced != NULL) {
        hook_notice_displaced();
        Py_DECREF((PyObject *)recorder); /* if another thread stopped it meanwhile, what it adopted goes with it */
        traced = roots_get(coro);
        return traced == NULL ? &roots_left_out : traced;
    }
    Py_XDECREF((PyObject *)recorder);
    if (PyErr_Occurred()) {
        return error_of_shortage() ? &roots_left_out : &interrupted;
    }
    if (roots_get(coro) == NULL && roots_leave_out(coro, ROOT_REFUSED) < 0) {
        PyErr_Clear();
    }
    return &roots_left_out;
}

/* Returns NULL for a coroutine that is no task's root. */
static Traced *
adopt(PyObject *coro)
{
    PyObject *loop;
    Traced *traced = hook_is_current_root(coro, &loop) ? adopt_on(loop, coro) : NULL;
    Py_XDECREF(loop);
    return traced;
}

/* Inside of a task's step, a coroutine is stepped as a rule by the one that awaits it, and only then by its own task if that starts
   eagerly, or runs on a loop inside. */
SELDOM static Traced *
nested(PyObject *coro, Traced *traced)
{
    if (traced == NULL || traced->state == OFFERED) {
        return traced;
    }
    PyObject *loop;
    int found = hook_is_current_root(coro, &loop);
    Py_XDECREF(loop);
    return found ? traced : NULL;
}

/* Whether it is of a recorder that has stopped, and no step on the C stack refers to it. */
static inline int
is_stale(const Traced *traced)
{
    return traced != &roots_left_out && traced->recorder->retired && traced->steps == 0;
}

/* A root that is not in the table, or only as one of a recorder that has stopped. */
SELDOM static Traced *
adopt_anew(PyObject *coro, const Traced *stale)
{
    if (stale != NULL) {
        Py_XDECREF((PyObject *)roots_remove(coro));
    }
    return adopt(coro);
}

static inline Traced *
outermost(PyObject *coro, Traced *traced)
{
    return traced == NULL || is_stale(traced) ? adopt_anew(coro, traced) : traced;
}

/* --- steps -------------------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject *coro; /* the caller keeps it */
    Traced *traced; /* NULL if this is no step of a task */
    Recorder *recorder; /* NULL if the task is not followed */
    const void **stepped; /* this thread's */
    const void *outer;
    int timed; /* -1 if it was interrupted before it began */
} Step;

static inline Step
begin_known(PyObject *coro, Traced *traced, const void **here)
{
    Step step = {coro, traced, NULL, here, *here, traced == &interrupted ? -1 : 0};
    if (traced == NULL) {
        return step;
    }
    *here = coro;
    if (traced == &interrupted || traced == &roots_left_out) {
        return step;
    }
    step.recorder = (Recorder *)Py_NewRef((PyObject *)traced->recorder);
    roots_enter_step(traced);
    step.timed = recorder_resume(step.recorder, traced);
    return step;
}

static inline Step
begin(PyObject *coro)
{
    if (passes()) {
        return (Step){.coro = coro};
    }
    const void **here = place_of_stepped();
    Traced *traced = roots_get(coro);
    traced = *here != NULL ? nested(coro, traced) : outermost(coro, traced);
    return begin_known(coro, traced, here);
}

static inline void
end(const Step *step)
{
    *step->stepped = step->outer;
    if (step->recorder == NULL) {
        return;
    }
    if (step->traced->state == DONE && !step->traced->orphaned) {
        Py_XDECREF((PyObject *)roots_remove(step->coro));
    }
    roots_leave_step(step->traced);
    Py_DECREF(step->recorder);
}

static PySendResult
hooked_am_send(PyObject *coro, PyObject *value, PyObject **result)
{
    Step step = begin(coro);
    if (step.traced == NULL) {
        return PATCHED(am_send, sendfunc)(coro, value, result);
    }
    *result = NULL;
    PySendResult status = step.timed < 0 ? PYGEN_ERROR : PATCHED(am_send, sendfunc)(coro, value, result);
    if (step.timed > 0) {
        int failed = status == PYGEN_NEXT ? recorder_suspend(step.recorder, step.traced, *result)
                                          : recorder_end(step.recorder, step.traced, status == PYGEN_RETURN ? COMPLETED : recorder_status());
        if (failed) {
            Py_CLEAR(*result);
            status = PYGEN_ERROR;
        }
    }
    end(&step);
    return status;
}

/* After a step by a method, which returned what was yielded, or raised. */
static PyObject *
finished(const Step *step, PyObject *yielded)
{
    if (step->timed > 0) {
        int failed = yielded == NULL ? recorder_end(step->recorder, step->traced, recorder_status())
                                     : recorder_suspend(step->recorder, step->traced, yielded);
        if (failed) {
            Py_CLEAR(yielded);
        }
    }
    end(step);
    return yielded;
}

static PyObject *
hooked_send(PyObject *coro, PyObject *value)
{
    Step step = begin(coro);
    if (step.traced == NULL) {
        return PATCHED(send_method, PyCFunction)(coro, value);
    }
    return finished(&step, step.timed < 0 ? NULL : PATCHED(send_method, PyCFunction)(coro, value));
}

static PyObject *
hooked_throw(PyObject *coro, PyObject *const *args, Py_ssize_t count)
{
    Step step = begin(coro);
    if (step.traced == NULL) {
        return PATCHED(throw_method, FastMethod)(coro, args, count);
    }
    return finished(&step, step.timed < 0 ? NULL : PATCHED(throw_method, FastMethod)(coro, args, count));
}

/* Closing is no step of a task, but ends the one that has the coroutine. */
static PyObject *
hooked_close(PyObject *coro, PyObject *ignored)
{
    Step step = begin_known(coro, passes() ? NULL : roots_get(coro), &stepped);
    if (step.traced == NULL) {
        return PATCHED(close_method, PyCFunction)(coro, ignored);
    }
    PyObject *closed = step.timed < 0 ? NULL : PATCHED(close_method, PyCFunction)(coro, ignored);
    if (step.timed > 0 && recorder_end(step.recorder, step.traced, closed == NULL ? recorder_status() : CANCELLED) < 0) {
        Py_CLEAR(closed);
    }
    end(&step);
    return closed;
}

/* --- garbage ------------------------------------------------------------------------------------------------------------------ */

/* The last moment at which the address is the coroutine's. Not the finalizer, which runs only once, while a coroutine that it brought back
   may be followed again. Nothing here may run Python before the coroutine is freed or brought back. */
static void
hooked_dealloc(PyObject *coro)
{
    Scope *scope = NULL;
    Traced *traced = passes() ? NULL : roots_get(coro);
    if (traced != NULL) {
        if (traced != &roots_left_out) {
            recorder_lose(traced->recorder, traced);
        }
        scope = roots_remove(coro);
    }
    PATCHED(dealloc, destructor)(coro);
    Py_XDECREF((PyObject *)scope);
}

/* A scope may refer to the task, and so be in a cycle with the coroutine through the record. */
static int
hooked_traverse(PyObject *coro, visitproc visit, void *arg)
{
    if (scope_ever_entered && !passes()) {
        Traced *traced = roots_get(coro);
        if (traced != NULL) {
            Py_VISIT(traced->scope);
        }
    }
    return PATCHED(traverse, traverseproc)(coro, visit, arg);
}

/* --- patches ------------------------------------------------------------------------------------------------------------------ */

int
slot_init(void)
{
    PyTypeObject *type = &PyCoro_Type;
    if (type->tp_as_async == NULL || type->tp_as_async->am_send == NULL) {
        PyErr_SetString(PyExc_ImportError, "coroutines have no am_send in this version of Python");
        return -1;
    }
    am_send.place = (Function *)&type->tp_as_async->am_send;
    dealloc.place = (Function *)&type->tp_dealloc;
    traverse.place = (Function *)&type->tp_traverse;
    send_method.place = patch_method(type, "send", METH_O);
    throw_method.place = patch_method(type, "throw", METH_FASTCALL);
    close_method.place = patch_method(type, "close", METH_NOARGS);
    if (send_method.place == NULL || throw_method.place == NULL || close_method.place == NULL) {
        PyErr_SetString(PyExc_ImportError, "coroutines have other methods in this version of Python");
        return -1;
    }
    return 0;
}

void
slot_install(void)
{
    for (size_t place = 0; place < Py_ARRAY_LENGTH(patches); place++) {
        patch_apply(patches[place]);
    }
    interpreter = PyInterpreterState_Get();
}

int
slot_remove(PyObject *left)
{
    interpreter = NULL;
    int result = 0;
    for (size_t place = 0; place < Py_ARRAY_LENGTH(patches); place++) {
        if (patch_undo_or_list(patches[place], left) < 0) {
            result = -1;
        }
    }
    roots_clear();
    return result;
}

PyObject *
slot_follows(PyObject *Py_UNUSED(module), PyObject *coro)
{
    Traced *traced = Py_IS_TYPE(coro, traced_type) ? traced_record(coro) : passes() ? NULL : roots_get(coro);
    return PyBool_FromLong(traced != NULL && traced != &roots_left_out && !traced->recorder->retired);
}

PyObject *
slot_task_state(PyObject *Py_UNUSED(module), PyObject *coro)
{
    Traced *traced = Py_IS_TYPE(coro, traced_type) ? traced_record(coro) : passes() ? NULL : roots_get(coro);
    if (traced == NULL || traced == &roots_left_out || traced->recorder->retired) {
        Py_RETURN_NONE;
    }
    PyObject *scope = traced->scope == NULL ? Py_None : (PyObject *)traced->scope;
    PyObject *adopted = traced->adopted ? Py_True : Py_False;
    return Py_BuildValue("(OOLLLOiLO)", traced->coro, traced->recorder, (long long)traced->number, (long long)traced->creator,
                         (long long)traced->created_ns, adopted, (int)traced->state, (long long)traced->since_ns, scope);
}

PyObject *
slot_followed(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(roots.used);
}
