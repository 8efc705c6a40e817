/* Sees every step of every task whose root is a built-in coroutine.

   A task in C resumes its coroutine through the slot am_send of the coroutine's type, and raises in
   it by the method throw. A task in Python does so by the methods send and throw. All of them are
   hooked, and so are close, the destructor and, for the garbage collector, the traversal. The type
   is the process's, so coroutines of other interpreters pass through here too, untouched. */
#ifndef AIOMETRICS_SLOT_H
#define AIOMETRICS_SLOT_H

#include <Python.h>

/* Finds what is to be hooked; -1 with an exception if this version of Python has it elsewhere. */
int slot_init(void);
void slot_install(void);
/* Puts everything back and forgets all tasks. Appends the names of what had to be left in place to
   a list; -1 with an exception. */
int slot_remove(PyObject *left);

/* follows(coro): whether the steps of a task with that root are recorded. */
PyObject *slot_follows(PyObject *module, PyObject *coro);
/* task_state(coro): what is known of the task with that root, as state_of() in task_state.py returns it; None if its steps are not
   recorded. */
PyObject *slot_task_state(PyObject *module, PyObject *coro);
/* followed(): how many coroutines the table of roots has. */
PyObject *slot_followed(PyObject *module, PyObject *ignored);

#endif
