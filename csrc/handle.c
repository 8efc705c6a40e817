/* Runs the callback of an asyncio handle as Handle._run does, and times it unless it is a step of a task, which times itself. */
#include "handle.h"

#include "hook.h"
#include "recorder.h"

#include <structmember.h>

/* Where Handle keeps what it was given, and what to do with what is out of the ordinary. One class in the process, so one of these. */
static struct {
    Py_ssize_t callback, args, context, loop;
    PyObject *original; /* Handle._run itself */
    PyObject *failed;   /* failed(handle, error): a callback has raised */
} handles;

static PyTypeObject *step_type; /* of asyncio's own callbacks in C; known once one was met, only compared */

static inline PyObject *
slot(PyObject *handle, Py_ssize_t offset)
{
    return *(PyObject **)((char *)handle + offset);
}

static int
is_step(PyObject *callback)
{
    PyTypeObject *type = Py_TYPE(callback);
    if (type == step_type) {
        return 1;
    }
    if (type == &PyCFunction_Type) {
        return strcmp(((PyCFunctionObject *)callback)->m_ml->ml_name, "task_wakeup") == 0;
    }
    const char *dot = strrchr(type->tp_name, '.');
    if (strcmp(dot == NULL ? type->tp_name : dot + 1, "TaskStepMethWrapper") == 0) {
        step_type = type;
        return 1;
    }
    return 0;
}

static PyObject *
call_in(PyObject *context, PyObject *callback, PyObject *args)
{
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    PyObject *result = PyObject_Call(callback, args, NULL);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* The frame is not on the stack, which greenlets swap out while segments inside may still refer to it. */
static PyObject *
call_timed(Recorder *recorder, PyObject *context, PyObject *callback, PyObject *args)
{
    Traced *frame = PyMem_Calloc(1, sizeof(Traced));
    int timed = frame != NULL && recorder_enter_callback(recorder, frame);
    PyObject *result = call_in(context, callback, args);
    if (timed) {
        recorder_leave_callback(recorder, frame, callback);
    }
    PyMem_Free(frame);
    return result;
}

/* The callback has raised: asyncio's own code says what comes of it. */
static PyObject *
report(PyObject *handle)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL) {
        (void)PyException_SetTraceback(error, traceback);
    }
    PyObject *result = PyObject_CallFunctionObjArgs(handles.failed, handle, error, NULL);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return result;
}

static PyObject *
handle_run(PyObject *handle, PyObject *Py_UNUSED(ignored))
{
    PyObject *callback = slot(handle, handles.callback), *args = slot(handle, handles.args);
    PyObject *context = slot(handle, handles.context), *loop = slot(handle, handles.loop);
    if (callback == NULL || args == NULL || context == NULL || loop == NULL || !PyTuple_CheckExact(args) ||
        !PyContext_CheckExact(context)) {
        return PyObject_CallOneArg(handles.original, handle);
    }
    Py_INCREF(callback);
    Py_INCREF(args);
    Py_INCREF(context);
    Recorder *recorder = is_step(callback) ? NULL : hook_recorder_of(loop);
    PyObject *result = recorder == NULL && PyErr_Occurred() ? NULL
                       : recorder == NULL                   ? call_in(context, callback, args)
                                                            : call_timed(recorder, context, callback, args);
    Py_XDECREF((PyObject *)recorder);
    Py_DECREF(callback);
    Py_DECREF(args);
    Py_DECREF(context);
    if (result == NULL) {
        return report(handle);
    }
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static PyMethodDef run_definition = {"_run", handle_run, METH_NOARGS, "Run the callback."};

/* Where the slot `name` of the type is, -1 with an exception if it is not one. */
static Py_ssize_t
offset_of(PyObject *type, const char *name)
{
    PyObject *member = PyObject_GetAttrString(type, name);
    if (member == NULL) {
        return -1;
    }
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(member, &PyMemberDescr_Type) && ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX) {
        offset = ((PyMemberDescrObject *)member)->d_member->offset;
    }
    else {
        PyErr_Format(PyExc_TypeError, "%R has no slot %s in this version of asyncio", type, name);
    }
    Py_DECREF(member);
    return offset;
}

PyObject *
handle_make_run(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *type, *original, *failed;
    if (!PyArg_ParseTuple(arguments, "O!OO:handle_run", &PyType_Type, &type, &original, &failed) ||
        (handles.callback = offset_of(type, "_callback")) < 0 || (handles.args = offset_of(type, "_args")) < 0 ||
        (handles.context = offset_of(type, "_context")) < 0 || (handles.loop = offset_of(type, "_loop")) < 0) {
        return NULL;
    }
    Py_XSETREF(handles.original, Py_NewRef(original));
    Py_XSETREF(handles.failed, Py_NewRef(failed));
    return PyDescr_NewMethod((PyTypeObject *)type, &run_definition);
}

PyObject *
handle_reraise(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *error = PyTuple_GET_SIZE(arguments) > 0 ? PyTuple_GET_ITEM(arguments, 0) : NULL;
    if (error == NULL || !PyExceptionInstance_Check(error)) {
        return PyErr_Format(PyExc_TypeError, "give an exception to raise, not %R", error == NULL ? Py_None : error);
    }
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), Py_NewRef(error), PyException_GetTraceback(error));
    return NULL;
}
