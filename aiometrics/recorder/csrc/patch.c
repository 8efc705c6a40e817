#include "patch.h"

Function *
patch_method(PyTypeObject *type, const char *name, int flags)
{
    PyObject *method = PyObject_GetAttrString((PyObject *)type, name);
    if (method == NULL) {
        PyErr_Clear();
        return NULL;
    }
    PyMethodDef *definition = Py_IS_TYPE(method, &PyMethodDescr_Type) ? ((PyMethodDescrObject *)method)->d_method : NULL;
    Py_DECREF(method); /* the type keeps it */
    return definition != NULL && definition->ml_flags == flags ? (Function *)&definition->ml_meth : NULL;
}

int
patch_undo_or_list(Patch *patch, PyObject *left)
{
    patch_undo(patch);
    if (!patch->applied) {
        return 0;
    }
    PyObject *name = PyUnicode_FromString(patch->name);
    int result = name == NULL ? -1 : PyList_Append(left, name);
    Py_XDECREF(name);
    return result;
}
