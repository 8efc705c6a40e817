#include "hook.h"

#define CACHED_LOOPS 16

/* A slot of a type belongs to the process, and so does what stands in it: one hook for all. */
static struct {
    PyTypeObject *task_type; /* NULL while nothing is hooked */
    PyObject *lookup;
    PyObject *loop_name;
    initproc original;
    PyCFunction original_get_coro;
    struct {
        PyObject *loop; /* only compared: when a loop goes, its recorder is retired */
        Recorder *recorder;
    } cache[CACHED_LOOPS];
} hook;

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

static int
init_traced(PyObject *task, PyObject *args, PyObject *kwargs, PyObject *traced)
{
    PyObject *changed = replaced(args, traced);
    if (changed == NULL) {
        return -1;
    }
    int result = hook.original(task, changed, kwargs);
    Py_DECREF(changed);
    if (result < 0) {
        recorder_abandon((Traced *)traced);
    }
    else {
        recorder_admit(((Traced *)traced)->recorder, (Traced *)traced);
    }
    return result;
}

static int hooked_init(PyObject *task, PyObject *args, PyObject *kwargs);

/* Task(coro=...): rare enough to be put in order first. */
static int
init_with_keyword(PyObject *task, PyObject *kwargs)
{
    PyObject *coro = PyDict_GetItemString(kwargs, "coro");
    PyObject *args = coro == NULL ? PyTuple_New(0) : PyTuple_Pack(1, coro);
    PyObject *others = PyDict_Copy(kwargs);
    int result = -1;
    if (args != NULL && others != NULL && (coro == NULL || PyDict_DelItemString(others, "coro") == 0)) {
        result = coro == NULL ? hook.original(task, args, others) : hooked_init(task, args, others);
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
        return hook.original(task, args, kwargs);
    }
    if (PyTuple_GET_SIZE(args) == 0) {
        return kwargs == NULL ? hook.original(task, args, kwargs) : init_with_keyword(task, kwargs);
    }
    PyObject *loop = kwargs == NULL ? NULL : PyDict_GetItemWithError(kwargs, hook.loop_name);
    Recorder *recorder = hook_recorder_of(loop == NULL ? Py_None : loop);
    if (recorder == NULL) {
        return PyErr_Occurred() ? -1 : hook.original(task, args, kwargs);
    }
    PyObject *coro = PyTuple_GET_ITEM(args, 0);
    PyObject *traced = recorder_trace(recorder, coro);
    int result = traced == NULL ? -1 : traced == coro ? hook.original(task, args, kwargs) : init_traced(task, args, kwargs, traced);
    Py_XDECREF(traced);
    Py_DECREF(recorder);
    return result;
}

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

/* Task.__init__ as subclasses call it: a descriptor with the slot's function in it. */
static int
replace_wrapper(PyTypeObject *type, initproc to)
{
    PyObject *wrapper = PyObject_GetAttrString((PyObject *)type, "__init__");
    if (wrapper == NULL) {
        return -1;
    }
    if (Py_IS_TYPE(wrapper, &PyWrapperDescr_Type) && ((PyDescrObject *)wrapper)->d_type == type) {
        ((PyWrapperDescrObject *)wrapper)->d_wrapped = (void *)to;
    }
    Py_DECREF(wrapper);
    return 0;
}

/* Task.get_coro: the coroutine that the application gave, not what stands for it. */
static PyObject *
hooked_get_coro(PyObject *task, PyObject *ignored)
{
    PyObject *coro = hook.original_get_coro(task, ignored);
    if (coro != NULL && Py_IS_TYPE(coro, traced_type)) {
        Py_SETREF(coro, Py_NewRef(((Traced *)coro)->coro));
    }
    return coro;
}

/* Stays in place once it is: it changes nothing where nothing is traced, and tasks that were traced outlive the hook. */
static int
replace_get_coro(PyTypeObject *type)
{
    PyObject *method = hook.original_get_coro != NULL ? NULL : PyObject_GetAttrString((PyObject *)type, "get_coro");
    if (method == NULL) {
        return hook.original_get_coro != NULL ? 0 : -1;
    }
    PyMethodDef *definition = Py_IS_TYPE(method, &PyMethodDescr_Type) ? ((PyMethodDescrObject *)method)->d_method : NULL;
    if (definition != NULL && definition->ml_flags == METH_NOARGS) {
        hook.original_get_coro = definition->ml_meth;
        definition->ml_meth = hooked_get_coro;
    }
    Py_DECREF(method);
    return 0;
}

static int
unhook(void)
{
    if (hook.task_type == NULL) {
        return 0;
    }
    cache_clear();
    Py_CLEAR(hook.lookup);
    int result = replace_slot(hook.task_type, hooked_init, hook.original);
    if (result == 0) {
        result = replace_wrapper(hook.task_type, hook.original);
    }
    Py_CLEAR(hook.task_type);
    return result;
}

PyObject *
hook_install(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyTypeObject *type;
    PyObject *lookup;
    if (!PyArg_ParseTuple(args, "O!O:hook", &PyType_Type, &type, &lookup) || unhook() < 0) {
        return NULL;
    }
    if (type->tp_init == NULL || !PyCallable_Check(lookup)) {
        return PyErr_Format(PyExc_TypeError, "cannot hook %R with %R: give a type with a constructor, and a function", type, lookup);
    }
    if (hook.loop_name == NULL && (hook.loop_name = PyUnicode_InternFromString("loop")) == NULL) {
        return NULL;
    }
    hook.original = type->tp_init;
    hook.task_type = (PyTypeObject *)Py_NewRef((PyObject *)type);
    hook.lookup = Py_NewRef(lookup);
    if (replace_slot(type, hook.original, hooked_init) < 0 || replace_wrapper(type, hooked_init) < 0 || replace_get_coro(type) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
hook_remove(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (unhook() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
