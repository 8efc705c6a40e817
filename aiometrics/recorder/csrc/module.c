#include "clock.h"
#include "constants.h"
#include "copying.h"
#include "errors.h"
#include "frame.h"
#include "guard.h"
#include "handle.h"
#include "handover.h"
#include "hook.h"
#include "libuv.h"
#include "libuv_turns.h"
#include "loop_methods.h"
#include "recorder.h"
#include "records.h"
#include "sampler.h"
#include "scope.h"
#include "slot.h"
#include "stack.h"
#include "turns.h"

static PyMethodDef methods[] = {
    {"hook", hook_install, METH_VARARGS, "hook(lookup, notice): trace the tasks whose loop lookup(loop) has a recorder for."},
    {"unhook", hook_remove, METH_NOARGS, "unhook(): restore everything. Return the names of what something else has replaced since."},
    {"follows", slot_follows, METH_O, "follows(coro): whether the steps of a task with that root are recorded."},
    {"task_state", slot_task_state, METH_O, "task_state(coro): what is known of the task with that root; None if its steps are not recorded."},
    {"followed", slot_followed, METH_NOARGS, "followed(): how many coroutines the table of roots has."},
    {"hook_handles", handle_hook, METH_O, "hook_handles(Handle): learn where a handle keeps its callback."},
    {"guard", guard_add, METH_O, "guard(memory): replace mapped memory by zeros if its file is cut off; return its address."},
    {"renew_guard", guard_renew, METH_NOARGS, "renew_guard(): stay in force although another handler was installed."},
    {"unguard", guard_remove, METH_O, "unguard(address): leave that memory alone from now on."},
    {"monotonic_ns", clock_monotonic_ns, METH_NOARGS, "monotonic_ns(): the time of a recorder without a clock of its own."},
    {"run_handle", handle_run, METH_O, "run_handle(handle): run its callback in its context, timed if it is no step of a task."},
#if LIBUV_CAN_BE_FOUND
    {"bind_libuv", libuv_turns_bind, METH_VARARGS, "bind_libuv(path, is_closed, is_running): find libuv in uvloop's extension module and try it, or raise RuntimeError."},
    {"hook_methods", loop_methods_hook, METH_VARARGS, "hook_methods(loop_class, listener): tell the listener when its loops run, stop and are closed."},
    {"unhook_methods", loop_methods_unhook, METH_NOARGS, "unhook_methods(): restore the methods unless something else has replaced them since."},
#endif
    {"deferring", errors_deferring, METH_O, "deferring(function): a function that calls it, and defers what a handler of a signal raises meanwhile."},
    {"telling", errors_telling, METH_VARARGS, "telling(tell, set_running_loop): a function that calls both, the latter last, whatever a handler of a signal raises in the former."},
    {"stack_of_thread", stack_of_thread, METH_O, "stack_of_thread(ident): the frames that a thread is executing, innermost first."},
    {"provide", copying_provide, METH_VARARGS, "provide(target, parts): have the memory of these parts ready."},
    {"copy_unheld", copying_copy_unheld, METH_VARARGS, "copy_unheld(target, source, parts, loop): copy them without the GIL; whether nothing was written meanwhile."},
    {"copy_parts", copying_copy_parts, METH_VARARGS, "copy_parts(target, source, parts): copy these parts of a page at once."},
    {"read_file", copying_read_file, METH_O, "read_file(path): return the start of a small file."},
    {"join", copying_join, METH_VARARGS, "join(*parts): join bytes without the GIL."},
    {NULL, NULL, 0, NULL},
};

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
    if (errors_init() < 0 || hook_init() < 0 || slot_init() < 0 || locate_init() < 0 || callback_init() < 0 ||
        recorder_init_module(module) < 0 || traced_init_module(module) < 0 ||
        scope_init_module(module) < 0 || turns_init_module(module) < 0 ||
        handover_init_module(module) < 0 || records_init_module(module) < 0 || sampler_init_module(module) < 0) {
        return -1;
    }
#if LIBUV_CAN_BE_FOUND
    if (libuv_turns_init_module(module) < 0) {
        return -1;
    }
#endif
    const char *frames = frame_is_read ? "direct" : "descriptors";
    if (PyModule_AddStringConstant(module, "FRAMES", frames) < 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "CONSTANTS_DIGEST", CONSTANTS_DIGEST);
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
