/* Runs the callback of an asyncio handle, and times it unless it is a step of a task, which times
   itself. */
#include "handle.h"

#include "errors.h"
#include "hook.h"
#include "recorder.h"

#include <structmember.h>

/* Where a handle stores its callback and the rest. There is one class of handles in a process. */
static PyTypeObject *handle_type;
static struct {
    Py_ssize_t callback, args, context, loop;
} handles;

/* The steps of tasks in C, known once one was met; only compared. */
static PyTypeObject *step_type;
static PyMethodDef *wakeup;

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
        PyMethodDef *method = ((PyCFunctionObject *)callback)->m_ml;
        if (method != wakeup && strcmp(method->ml_name, "task_wakeup") == 0) {
            wakeup = method;
        }
        return method == wakeup;
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

/* The frame is on the heap: greenlets swap out the stack while segments inside may still refer to
   it. */
static PyObject *
call_timed(Recorder *recorder, PyObject *context, PyObject *callback, PyObject *args)
{
    Traced *frame = PyMem_Calloc(1, sizeof(Traced));
    int timed = frame == NULL ? 0 : recorder_enter_callback(recorder, frame);
    PyObject *result = timed < 0 ? NULL : call_in(context, callback, args);
    if (timed > 0 && recorder_leave_callback(recorder, frame, callback) < 0) {
        Py_CLEAR(result);
    }
    PyMem_Free(frame);
    return result;
}

/* Does what the replaced line of Handle._run does, for unusual handles. */
static PyObject *
call_as_written(PyObject *handle)
{
    PyObject *context = PyObject_GetAttrString(handle, "_context");
    PyObject *run = context == NULL ? NULL : PyObject_GetAttrString(context, "run");
    PyObject *callback = run == NULL ? NULL : PyObject_GetAttrString(handle, "_callback");
    PyObject *args = callback == NULL ? NULL : PyObject_GetAttrString(handle, "_args");
    PyObject *rest = args == NULL ? NULL : PySequence_Tuple(args);
    PyObject *first = rest == NULL ? NULL : PyTuple_Pack(1, callback);
    PyObject *all = first == NULL ? NULL : PySequence_Concat(first, rest);
    PyObject *result = all == NULL ? NULL : PyObject_Call(run, all, NULL);
    PyObject *parts[] = {context, run, callback, args, rest, first, all};
    for (size_t place = 0; place < Py_ARRAY_LENGTH(parts); place++) {
        Py_XDECREF(parts[place]);
    }
    return result;
}

static PyObject *
call_plain(PyObject *callback, PyObject *args, PyObject *context, PyObject *loop)
{
    if (is_step(callback)) {
        return call_in(context, callback, args);
    }
    Recorder *recorder = hook_recorder_of(loop);
    if (recorder == NULL) {
        return PyErr_Occurred() && !error_of_shortage() ? NULL : call_in(context, callback, args);
    }
    PyObject *result = call_timed(recorder, context, callback, args);
    Py_DECREF(recorder);
    return result;
}

PyObject *
handle_run(PyObject *Py_UNUSED(module), PyObject *handle)
{
    if (handle_type == NULL || !PyObject_TypeCheck(handle, handle_type)) {
        return call_as_written(handle);
    }
    PyObject *callback = slot(handle, handles.callback), *args = slot(handle, handles.args);
    PyObject *context = slot(handle, handles.context), *loop = slot(handle, handles.loop);
    if (callback == NULL || args == NULL || context == NULL || loop == NULL || !PyTuple_CheckExact(args) ||
        !PyContext_CheckExact(context)) {
        return call_as_written(handle);
    }
    Py_INCREF(callback);
    Py_INCREF(args);
    Py_INCREF(context);
    PyObject *result = call_plain(callback, args, context, loop);
    Py_DECREF(callback);
    Py_DECREF(args);
    Py_DECREF(context);
    return result;
}

/* Returns the offset of the slot `name` of a type; -1 with an exception if it is not a slot. */
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
handle_hook(PyObject *Py_UNUSED(module), PyObject *type)
{
    if (!PyType_Check(type) || (handles.callback = offset_of(type, "_callback")) < 0 || (handles.args = offset_of(type, "_args")) < 0 ||
        (handles.context = offset_of(type, "_context")) < 0 || (handles.loop = offset_of(type, "_loop")) < 0) {
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "cannot hook %R: give the type of asyncio's handles", type);
    }
    Py_XSETREF(handle_type, (PyTypeObject *)Py_NewRef(type));
    Py_RETURN_NONE;
}
