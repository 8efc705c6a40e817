#include "hook.h"

#include "errors.h"
#include "patch.h"
#include "roots.h"
#include "slot.h"

#define CACHED_LOOPS 16

/* A type of tasks: asyncio's in C, whose slot subclasses copied and whose descriptor they call, and its twin in Python. */
typedef struct {
    PyTypeObject *type;
    Patch init;
    Patch descriptor;
} TaskType;

static int hooked_init(PyObject *task, PyObject *args, PyObject *kwargs);

#define TASK_TYPE(written) \
    {.init = {.name = written ".tp_init", .ours = (Function)hooked_init}, .descriptor = {.name = written ".__init__", .ours = (Function)hooked_init}}

/* Slots of types belong to the process, and so does what stands in them: one hook for all. */
static struct {
    TaskType in_c, in_python;
    PyObject *lookup; /* NULL while nothing is hooked */
    PyObject *notice;
    PyTypeObject *noticed; /* only compared */
    int displacement_noticed;
    PyObject *loop_name, *coro_name;
    PyObject *get_running_loop, *current_tasks;
    PyObject *current_task; /* NULL before Python 3.14 */
    struct {
        PyObject *loop; /* only compared: when a loop goes, its recorder is retired */
        Recorder *recorder;
    } cache[CACHED_LOOPS];
} hook = {.in_c = TASK_TYPE("_asyncio.Task"), .in_python = TASK_TYPE("asyncio.tasks._PyTask")};

static PyObject *hooked_get_coro(PyObject *task, PyObject *ignored);
static Patch get_coro = {.name = "_asyncio.Task.get_coro", .ours = (Function)hooked_get_coro};

static void
cache_clear(void)
{
    for (size_t place = 0; place < CACHED_LOOPS; place++) {
        hook.cache[place].loop = NULL;
        Py_CLEAR(hook.cache[place].recorder);
    }
}

void
hook_forget(const Recorder *recorder)
{
    for (size_t place = 0; place < CACHED_LOOPS; place++) {
        if (hook.cache[place].recorder == recorder) {
            hook.cache[place].loop = NULL;
            Py_CLEAR(hook.cache[place].recorder);
        }
    }
}

Recorder *
hook_recorder_of(PyObject *loop)
{
    if (hook.lookup == NULL) {
        return NULL;
    }
    size_t place = ((uintptr_t)loop >> 6) % CACHED_LOOPS;
    Recorder *known = hook.cache[place].recorder;
    if (hook.cache[place].loop == loop && known != NULL && !known->retired) {
        return (Recorder *)Py_NewRef((PyObject *)known);
    }
    PyObject *found = PyObject_CallOneArg(hook.lookup, loop);
    if (found == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(found, recorder_type)) {
        Py_DECREF(found);
        return NULL;
    }
    if (loop == Py_None) { /* whichever runs: another one next time */
        return (Recorder *)found;
    }
    hook.cache[place].loop = loop;
    Py_XSETREF(hook.cache[place].recorder, (Recorder *)Py_NewRef(found));
    return (Recorder *)found;
}

/* Puts `traced` where the coroutine was given: the first positional argument. A new reference. */
static PyObject *
replaced(PyObject *args, PyObject *traced)
{
    Py_ssize_t size = PyTuple_GET_SIZE(args);
    PyObject *changed = PyTuple_New(size);
    if (changed == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(changed, 0, Py_NewRef(traced));
    for (Py_ssize_t place = 1; place < size; place++) {
        PyTuple_SET_ITEM(changed, place, Py_NewRef(PyTuple_GET_ITEM(args, place)));
    }
    return changed;
}

static inline int
is_of(PyObject *task, const TaskType *kind)
{
    return PyObject_TypeCheck(task, kind->type);
}

/* What would run without us. */
static int
init(PyObject *task, PyObject *args, PyObject *kwargs)
{
    const TaskType *kind = is_of(task, &hook.in_python) ? &hook.in_python : &hook.in_c;
    return PATCHED(kind->init, initproc)(task, args, kwargs);
}

static int
init_wrapped(PyObject *task, PyObject *args, PyObject *kwargs, PyObject *wrapper)
{
    PyObject *changed = replaced(args, wrapper);
    if (changed == NULL) {
        return -1;
    }
    int result = init(task, changed, kwargs);
    Py_DECREF(changed);
    if (result == 0) {
        Traced *traced = traced_record(wrapper);
        recorder_admit(traced->recorder, traced);
    }
    return result;
}

/* If the task started eagerly, its coroutine may be done, and no longer in the table. */
static int
init_root(PyObject *task, PyObject *args, PyObject *kwargs, PyObject *coro)
{
    int result = init(task, args, kwargs);
    Traced *traced = PyCoro_CheckExact(coro) ? roots_get(coro) : NULL;
    if (traced == NULL || traced->state != OFFERED) {
        return result;
    }
    if (result < 0) {
        (void)roots_remove(coro); /* it belongs to no scope before its first step */
    }
    else {
        recorder_admit(traced->recorder, traced);
    }
    return result;
}

/* Task(coro=...): rare enough to be put in order first. */
static int
init_with_keyword(PyObject *task, PyObject *kwargs)
{
    PyObject *coro = PyDict_GetItemString(kwargs, "coro");
    PyObject *args = coro == NULL ? PyTuple_New(0) : PyTuple_Pack(1, coro);
    PyObject *others = PyDict_Copy(kwargs);
    int result = -1;
    if (args != NULL && others != NULL && (coro == NULL || PyDict_DelItemString(others, "coro") == 0)) {
        result = coro == NULL ? init(task, args, others) : hooked_init(task, args, others);
    }
    Py_XDECREF(args);
    Py_XDECREF(others);
    return result;
}

/* Whether this is not the interpreter that hooked: up to 3.11 the type belongs to all interpreters of a process. */
static inline int
elsewhere(void)
{
#if PY_VERSION_HEX < 0x030C0000
    return PyInterpreterState_Get() != PyInterpreterState_Main();
#else
    return 0;
#endif
}

static int
hooked_init(PyObject *task, PyObject *args, PyObject *kwargs)
{
    if (hook.lookup == NULL || elsewhere()) {
        return init(task, args, kwargs);
    }
    if (PyTuple_GET_SIZE(args) == 0) {
        return kwargs == NULL ? init(task, args, kwargs) : init_with_keyword(task, kwargs);
    }
    PyObject *loop = kwargs == NULL ? NULL : PyDict_GetItemWithError(kwargs, hook.loop_name);
    Recorder *recorder = hook_recorder_of(loop == NULL ? Py_None : loop);
    if (recorder == NULL) {
        return PyErr_Occurred() && !error_of_shortage() ? -1 : init(task, args, kwargs);
    }
    PyObject *coro = PyTuple_GET_ITEM(args, 0);
    PyObject *offered = recorder_offer(recorder, coro);
    int result = offered == NULL ? -1 : offered == coro ? init_root(task, args, kwargs, coro) : init_wrapped(task, args, kwargs, offered);
    Py_XDECREF(offered);
    Py_DECREF(recorder);
    return result;
}

/* --- the task that runs ------------------------------------------------------------------------------------------------------- */

/* Nothing that it raises is the business of the step in whose middle it is called. */
static void
notice(PyObject *subject)
{
    PyObject *done = subject == NULL ? NULL : PyObject_CallOneArg(hook.notice, subject);
    if (done == NULL) {
        error_clear();
    }
    Py_XDECREF(done);
}

/* Tells once about tasks of a type that we do not see. */
static void
notice_foreign(PyObject *task)
{
    if (hook.noticed == Py_TYPE(task)) {
        return;
    }
    hook.noticed = Py_TYPE(task);
    notice((PyObject *)Py_TYPE(task));
}

void
hook_notice_displaced(void)
{
    const Patch *const constructors[] = {&hook.in_c.init, &hook.in_c.descriptor, &hook.in_python.init};
    for (size_t place = 0; place < Py_ARRAY_LENGTH(constructors) && !hook.displacement_noticed; place++) {
        if (constructors[place]->applied && !patch_is_in_place(constructors[place])) {
            hook.displacement_noticed = 1;
            PyObject *name = PyUnicode_FromString(constructors[place]->name);
            notice(name);
            Py_XDECREF(name);
        }
    }
}

/* Whether a coroutine is the root of a task, found without code of the application. The task is NULL if an exception is set. */
static int
is_root_of(PyObject *coro, PyObject *task)
{
    if (task == NULL) {
        error_clear();
        return 0;
    }
    if (task == Py_None) {
        return 0;
    }
    if (!is_of(task, &hook.in_c) && !is_of(task, &hook.in_python)) {
        notice_foreign(task);
        return 0;
    }
    PyObject *root = PyObject_GenericGetAttr(task, hook.coro_name);
    if (root == NULL) {
        error_clear();
        return 0;
    }
    Py_DECREF(root); /* the task keeps it */
    return root == coro;
}

/* From Python 3.14 on, only tasks in Python are in the table of current tasks, and those in C are asked for. */
static int
is_current_root(PyObject *coro, PyObject *loop)
{
    int found = is_root_of(coro, PyDict_GetItemWithError(hook.current_tasks, loop));
    if (!found && hook.current_task != NULL) {
        PyObject *task = PyObject_CallOneArg(hook.current_task, loop);
        found = is_root_of(coro, task);
        Py_XDECREF(task);
    }
    return found;
}

int
hook_is_current_root(PyObject *coro, PyObject **running)
{
    PyObject *loop = hook.lookup == NULL ? NULL : PyObject_CallNoArgs(hook.get_running_loop);
    int found = loop != NULL && loop != Py_None && is_current_root(coro, loop);
    if (loop == NULL) {
        error_clear();
    }
    *running = loop;
    return found;
}

/* --- patches ------------------------------------------------------------------------------------------------------------------ */

/* Subclasses copied the slot when they were made. */
static int
replace_slot(PyTypeObject *type, initproc from, initproc to)
{
    if (type->tp_init == from) {
        type->tp_init = to;
    }
    PyObject *subclasses = PyObject_CallMethod((PyObject *)&PyType_Type, "__subclasses__", "O", type);
    if (subclasses == NULL) {
        return -1;
    }
    int result = 0;
    for (Py_ssize_t place = 0; result == 0 && place < PyList_GET_SIZE(subclasses); place++) {
        result = replace_slot((PyTypeObject *)PyList_GET_ITEM(subclasses, place), from, to);
    }
    Py_DECREF(subclasses);
    return result;
}

/* Where Task.__init__, as subclasses call it, keeps the slot's function; NULL if it is written in Python. */
static Function *
descriptor_of(PyTypeObject *type)
{
    PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, "__init__");
    if (descriptor == NULL) {
        PyErr_Clear();
        return NULL;
    }
    int is_own = Py_IS_TYPE(descriptor, &PyWrapperDescr_Type) && ((PyDescrObject *)descriptor)->d_type == type;
    Py_DECREF(descriptor); /* the type keeps it */
    return is_own ? (Function *)&((PyWrapperDescrObject *)descriptor)->d_wrapped : NULL;
}

/* Task.get_coro: the coroutine that the application gave, not what stands for it. */
static PyObject *
hooked_get_coro(PyObject *task, PyObject *ignored)
{
    PyObject *coro = PATCHED(get_coro, PyCFunction)(task, ignored);
    if (coro != NULL && Py_IS_TYPE(coro, traced_type)) {
        Py_SETREF(coro, Py_NewRef(traced_record(coro)->coro));
    }
    return coro;
}

static int
hook_type(TaskType *kind)
{
    patch_apply(&kind->init);
    patch_apply(&kind->descriptor);
    return kind->descriptor.place == NULL ? 0 : replace_slot(kind->type, PATCHED(kind->init, initproc), hooked_init);
}

static int
unhook_type(TaskType *kind, PyObject *left)
{
    int failed = patch_undo_or_list(&kind->init, left) < 0 || patch_undo_or_list(&kind->descriptor, left) < 0 ||
                 (kind->descriptor.place != NULL && replace_slot(kind->type, hooked_init, PATCHED(kind->init, initproc)) < 0);
    return failed ? -1 : 0;
}

/* Task.get_coro stays hooked: that changes nothing where nothing is wrapped, and wrapped tasks outlive the hook. */
static int
unhook(PyObject *left)
{
    if (hook.lookup == NULL) {
        return 0;
    }
    cache_clear();
    Py_CLEAR(hook.lookup);
    Py_CLEAR(hook.notice);
    hook.noticed = NULL;
    hook.displacement_noticed = 0;
    int failed = unhook_type(&hook.in_c, left) < 0;
    failed |= unhook_type(&hook.in_python, left) < 0;
    failed |= slot_remove(left) < 0;
    return failed ? -1 : 0;
}

static PyObject *
import_from(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return found;
}

static int
find_type(TaskType *kind, const char *module_name, const char *name)
{
    PyObject *found = import_from(module_name, name);
    if (found == NULL) {
        return -1;
    }
    if (!PyType_Check(found) || ((PyTypeObject *)found)->tp_init == NULL) {
        PyErr_Format(PyExc_ImportError, "%s.%s is no type with a constructor in this version of Python", module_name, name);
        Py_DECREF(found);
        return -1;
    }
    kind->type = (PyTypeObject *)found;
    kind->init.place = (Function *)&kind->type->tp_init;
    kind->descriptor.place = descriptor_of(kind->type);
    return 0;
}

int
hook_init(void)
{
    if (find_type(&hook.in_c, "_asyncio", "Task") < 0 || find_type(&hook.in_python, "asyncio.tasks", "_PyTask") < 0) {
        return -1;
    }
    get_coro.place = patch_method(hook.in_c.type, "get_coro", METH_NOARGS);
    hook.current_tasks = import_from("asyncio.tasks", "_current_tasks");
    if (PY_VERSION_HEX >= 0x030E0000) {
        hook.current_task = import_from("_asyncio", "current_task");
    }
    hook.get_running_loop = import_from("_asyncio", "_get_running_loop");
    hook.loop_name = PyUnicode_InternFromString("loop");
    hook.coro_name = PyUnicode_InternFromString("_coro");
    return PyErr_Occurred() ? -1 : 0;
}

PyObject *
hook_install(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *lookup, *noticing;
    if (!PyArg_ParseTuple(args, "OO:hook", &lookup, &noticing)) {
        return NULL;
    }
    if (!PyCallable_Check(lookup) || !PyCallable_Check(noticing)) {
        return PyErr_Format(PyExc_TypeError, "cannot hook with %R and %R: give two functions", lookup, noticing);
    }
    cache_clear();
    roots_forget_refused();
    Py_XSETREF(hook.lookup, Py_NewRef(lookup));
    Py_XSETREF(hook.notice, Py_NewRef(noticing));
    patch_apply(&get_coro);
    if (hook_type(&hook.in_c) < 0 || hook_type(&hook.in_python) < 0) {
        return NULL;
    }
    slot_install();
    Py_RETURN_NONE;
}

PyObject *
hook_remove(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyObject *left = PyList_New(0);
    if (left != NULL && unhook(left) < 0) {
        Py_CLEAR(left);
    }
    return left;
}
