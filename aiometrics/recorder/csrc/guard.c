/* Keeps a process alive when the file of a page that it has mapped is cut off.

   Touching a page of memory behind the end of its file raises SIGBUS, whose default is to kill. The
   handler puts memory of the process in its place, full of zeros. Somebody else notices what
   happened to the file, and gives the loop another page. All other causes of the signal are left to
   the handler that was there before, or came since: faulthandler, for one, is often switched on late. */
#include "guard.h"

#ifndef MS_WINDOWS

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#define MAX_RANGES 1024 /* more than there can be loops */

static struct {
    uintptr_t start;
    volatile size_t size; /* 0 for an unused range; written last */
} ranges[MAX_RANGES];
static struct sigaction first, before; /* the handlers found at first, and most recently */
static volatile sig_atomic_t passing;
static void *unhelped; /* the address that another handler was told of most recently */
static int count;

/* Returns the range that an address is in, or -1. */
static int
range_of(uintptr_t address)
{
    for (int place = 0; place < MAX_RANGES; place++) {
        if (ranges[place].size != 0 && address - ranges[place].start < ranges[place].size) {
            return place;
        }
    }
    return -1;
}

static int
replaced(int place)
{
    int error = errno;
    void *memory = mmap((void *)ranges[place].start, ranges[place].size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    errno = error;
    return memory != MAP_FAILED;
}

/* Leaves a signal to another handler. */
static void
pass_on(const struct sigaction *other, int number, siginfo_t *info, void *context)
{
    if (other->sa_flags & SA_SIGINFO) {
        other->sa_sigaction(number, info, context);
    }
    else if (other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN) {
        other->sa_handler(number);
    }
    else { /* what raised the signal raises it again; one that was sent must be sent again */
        (void)sigaction(number, other, NULL);
        if (info->si_code <= 0) {
            (void)raise(number);
        }
    }
}

static void
on_bus_error(int number, siginfo_t *info, void *context)
{
    int place = info->si_code == BUS_ADRERR ? range_of((uintptr_t)info->si_addr) : -1;
    if (place >= 0 && replaced(place)) {
        return;
    }
    if (passing) { /* the other handler has raised it again, for the handler that was there before it */
        pass_on(&first, number, info, context);
        return;
    }
    if (info->si_code > 0 && info->si_addr == unhelped) { /* the other handler does nothing about it */
        static const struct sigaction none = {.sa_handler = SIG_DFL};
        (void)sigaction(number, &none, NULL);
        return;
    }
    if (info->si_code > 0) {
        unhelped = info->si_addr;
    }
    passing = 1;
    pass_on(&before, number, info, context);
    passing = 0;
}

static int
is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_bus_error;
}

static int
install(void)
{
    /* Not deferred, so that what the other handler raises comes while it runs. */
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &before);
}

/* Restores the handler, unless another one has been installed since. */
static void
uninstall(void)
{
    struct sigaction now;
    if (sigaction(SIGBUS, NULL, &now) == 0 && is_ours(&now)) {
        (void)sigaction(SIGBUS, &before, NULL);
    }
}

PyObject *
guard_renew(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    struct sigaction now;
    if (count > 0 && sigaction(SIGBUS, NULL, &now) == 0 && !is_ours(&now)) {
        (void)install();
    }
    Py_RETURN_NONE;
}

PyObject *
guard_add(PyObject *Py_UNUSED(module), PyObject *memory)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(memory, &buffer, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    uintptr_t start = (uintptr_t)buffer.buf;
    size_t size = (size_t)buffer.len;
    PyBuffer_Release(&buffer);
    int place = 0;
    while (place < MAX_RANGES && ranges[place].size != 0) {
        place++;
    }
    if (place == MAX_RANGES || (count == 0 && install() < 0)) {
        return PyErr_Format(PyExc_OSError, "cannot guard memory: there are %d mapped pages", count);
    }
    if (count == 0) {
        first = before;
    }
    count++;
    ranges[place].start = start;
    ranges[place].size = size;
    return PyLong_FromSize_t(start);
}

PyObject *
guard_remove(PyObject *Py_UNUSED(module), PyObject *address)
{
    size_t start = PyLong_AsSize_t(address);
    if (start == (size_t)-1 && PyErr_Occurred()) {
        return NULL;
    }
    for (int place = 0; place < MAX_RANGES; place++) {
        if (ranges[place].size != 0 && ranges[place].start == start) {
            ranges[place].size = 0;
            if (--count == 0) {
                uninstall();
            }
            break;
        }
    }
    Py_RETURN_NONE;
}

#else

PyObject *
guard_renew(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

PyObject *
guard_add(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(memory))
{
    return PyLong_FromLong(0); /* files cannot be shared there */
}

PyObject *
guard_remove(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(address))
{
    Py_RETURN_NONE;
}

#endif
