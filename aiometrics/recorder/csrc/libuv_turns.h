/* Times the turns of a loop of uvloop, which asks no selector that could be replaced. libuv calls a
   prepare handle before it waits for events and a check handle after it has handled them, and knows
   for how long it waited in between. The words of the page are those of turns.c. */
#ifndef AIOMETRICS_LIBUV_TURNS_H
#define AIOMETRICS_LIBUV_TURNS_H

#include <Python.h>

int libuv_turns_init_module(PyObject *module);

/* bind_libuv(path, is_closed, is_running): see libuv_bind(); the other two are methods of uvloop's
   own class. Raises RuntimeError with the reason. */
PyObject *libuv_turns_bind(PyObject *module, PyObject *args);

#endif
