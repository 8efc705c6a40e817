#include "clock.h"
#include "handle.h"
#include "hook.h"
#include "recorder.h"
#include "scope.h"
#include "turns.h"

static PyMethodDef methods[] = {
    {"hook", hook_install, METH_VARARGS, "hook(task_type, lookup): trace each new task of that type whose loop lookup(loop) has a recorder for."},
    {"unhook", hook_remove, METH_NOARGS, "unhook(): construct tasks as if nothing had been."},
    {"hook_handles", handle_hook, METH_O, "hook_handles(Handle): learn where a handle keeps its callback."},
    {"monotonic_ns", clock_monotonic_ns, METH_NOARGS, "monotonic_ns(): the time of a recorder without a clock of its own."},
    {"run_handle", handle_run, METH_O, "run_handle(handle): run its callback in its context, timed if it is no step of a task."},
    {NULL, NULL, 0, NULL},
};

typedef struct {
    const char *record;
    const char *field;
    int offset;
} Offset;

/* A test compares these with aiometrics/pages/layout.py. */
static const Offset offsets[] = {
    {"HEADER", "segment_bounds", HEADER_SEGMENT_BOUNDS},
    {"HEADER", "wait_bounds", HEADER_WAIT_BOUNDS},
    {"HEADER", "max_coroutines", HEADER_MAX_COROUTINES},
    {"HEADER", "max_yield_points", HEADER_MAX_YIELD_POINTS},
    {"HEADER", "max_requests", HEADER_MAX_REQUESTS},
    {"HEADER", "weight", HEADER_WEIGHT},
    {"HEADER", "blocking_threshold_ns", HEADER_BLOCKING_THRESHOLD_NS},
    {"LOOP", "finished", LOOP_FINISHED},
    {"LOOP", "seen_ns", LOOP_SEEN_NS},
    {"LOOP", "started", LOOP_STARTED},
    {"LOOP", "segment_since_ns", LOOP_SEGMENT_SINCE_NS},
    {"LOOP", "segment_coroutine", LOOP_SEGMENT_COROUTINE},
    {"LOOP", "segment_counted_ns", LOOP_SEGMENT_COUNTED_NS},
    {"LOOP", "looked_ns", LOOP_LOOKED_NS},
    {"LOOP", "blocking_ns", LOOP_BLOCKING_NS},
    {"LOOP", "timed", LOOP_TIMED},
    {"LOOP", "turn_since_ns", LOOP_TURN_SINCE_NS},
    {"LOOP", "poll_since_ns", LOOP_POLL_SINCE_NS},
    {"LOOP", "active_ns", LOOP_ACTIVE_NS},
    {"LOOP", "idle_ns", LOOP_IDLE_NS},
    {"LOOP", "events", LOOP_EVENTS},
    {"LOOP", "events_waiting", LOOP_EVENTS_WAITING},
    {"COROUTINE", "name", COROUTINE_NAME},
    {"COROUTINE", "created", COROUTINE_CREATED},
    {"COROUTINE", "live", COROUTINE_LIVE},
    {"COROUTINE", "destroyed_pending", COROUTINE_DESTROYED_PENDING},
    {"COROUTINE", "running_ns", COROUTINE_RUNNING_NS},
    {"YIELD_POINT", "coroutine", POINT_COROUTINE},
    {"YIELD_POINT", "yield_point", POINT_YIELD_POINT},
    {"YIELD_POINT", "awaits", POINT_AWAITS},
    {"YIELD_POINT", "blocking_ns", POINT_BLOCKING_NS},
    {"YIELD_POINT", "inflicted_wait_ns", POINT_INFLICTED_WAIT_NS},
    {"YIELD_POINT", "suspended", POINT_SUSPENDED},
    {"YIELD_POINT", "oldest_ns", POINT_OLDEST_NS},
    {"REQUEST", "name", REQUEST_NAME},
    {"REQUEST", "objective_ns", REQUEST_OBJECTIVE_NS},
    {"REQUEST", "background_ns", REQUEST_BACKGROUND_NS},
    {"REQUEST", "in_progress", REQUEST_IN_PROGRESS},
    {"REQUEST", "violations", REQUEST_VIOLATIONS},
    {"REQUEST", "overdue", REQUEST_OVERDUE},
    {"REQUEST_WAIT", "request", REQUEST_WAIT_REQUEST},
    {"REQUEST_WAIT", "awaits", REQUEST_WAIT_AWAITS},
    {"REQUEST_WAIT", "wait_ns", REQUEST_WAIT_WAIT_NS},
    {"SCOPE_ERROR", "abandoned", SCOPE_ABANDONED},
    {"SCOPE_ERROR", "out_of_order", SCOPE_OUT_OF_ORDER},
    {"SCOPE_ERROR", "foreign_task", SCOPE_FOREIGN_TASK},
    {"SCOPE_ERROR", "foreign_loop", SCOPE_FOREIGN_LOOP},
    {"SCOPE_ERROR", "invalid", SCOPE_INVALID},
    {"SCOPE_ERROR", "outside_loop", SCOPE_OUTSIDE_LOOP},
};

static int
add_layout(PyObject *module)
{
    PyObject *layout = PyDict_New();
    if (layout == NULL) {
        return -1;
    }
    for (size_t place = 0; place < Py_ARRAY_LENGTH(offsets); place++) {
        PyObject *key = Py_BuildValue("(ss)", offsets[place].record, offsets[place].field);
        PyObject *value = PyLong_FromLong(offsets[place].offset);
        int failed = key == NULL || value == NULL || PyDict_SetItem(layout, key, value) < 0;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (failed) {
            Py_DECREF(layout);
            return -1;
        }
    }
    int result = PyModule_AddObjectRef(module, "LAYOUT", layout);
    Py_DECREF(layout);
    return result;
}

/* The hook replaces slots of types that all interpreters of a process may share. */
static int
in_main_interpreter(void)
{
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) {
        return 1;
    }
    PyErr_SetString(PyExc_ImportError, "aiometrics.recorder._core runs only in the main interpreter of a process");
    return 0;
}

static int
execute(PyObject *module)
{
    if (!in_main_interpreter()) {
        return -1;
    }
    if (locate_init() < 0 || callback_init() < 0 || recorder_init_module(module) < 0 || traced_init_module(module) < 0 ||
        scope_init_module(module) < 0 || turns_init_module(module) < 0) {
        return -1;
    }
    return add_layout(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aiometrics.recorder._core",
    .m_doc = "The recorder in C. Its twin in Python is aiometrics.recorder.recorder.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
