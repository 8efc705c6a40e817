#include "breaker.h"

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#define Py_BUILD_CORE 1
#include <Python.h>
#if PY_VERSION_HEX < 0x030D0000
#include <internal/pycore_interp.h>
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#if PY_VERSION_HEX < 0x030D0000

static int is_known;

static int
do_nothing(void *Py_UNUSED(unused))
{
    return 0;
}

void
breaker_check(void)
{
    _Py_atomic_int *flag = &PyInterpreterState_Main()->ceval.eval_breaker;
    if (is_known || _Py_atomic_load_relaxed(flag) != 0) {
        return;
    }
    is_known = Py_AddPendingCall(do_nothing, NULL) == 0 && _Py_atomic_load_relaxed(flag) == 1;
}

void
breaker_set(void)
{
    if (is_known) {
        _Py_atomic_store_relaxed(&PyInterpreterState_Main()->ceval.eval_breaker, 1);
    }
}

#else

void
breaker_check(void)
{
}

void
breaker_set(void)
{
}

#endif
