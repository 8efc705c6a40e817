/* The twin of aiometrics/base/handover.py. */
#include "handover.h"

#include "clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* Python ignores the signal anyway, unless the program wants it */
#endif

#define MOMENT_NS 50000
#define MOMENTS 3
#define LEAST_PAUSE_NS INT64_C(500000)
#define MOST_PAUSE_NS INT64_C(8000000)
#define MOST_DESCRIPTORS 4
#define MOST_PARTS 4
#define MILLISECOND_NS INT64_C(1000000)

atomic_int handover_asking;
static atomic_uint taken;     /* how often a thread that answers has had the interpreter */
static _Atomic int64_t pause_ns; /* how long no loop gives it up, since it was not taken */
static _Atomic int64_t paused_ns; /* since when */
static _Thread_local int asks;

void
handover_sleep_ns(int64_t duration_ns)
{
    struct timespec duration = {.tv_sec = duration_ns / SECOND_NS, .tv_nsec = (long)(duration_ns % SECOND_NS)};
    (void)nanosleep(&duration, NULL);
}

unsigned
handover_wait(unsigned before)
{
    int64_t now = clock_read_system();
    if (now - paused_ns < pause_ns) {
        return taken;
    }
    for (int moment = 0; moment < MOMENTS && taken == before; moment++) {
        handover_sleep_ns(MOMENT_NS);
    }
    if (taken == before) {
        paused_ns = now;
        pause_ns = Py_MIN(Py_MAX(2 * pause_ns, LEAST_PAUSE_NS), MOST_PAUSE_NS);
    }
    return taken;
}

void
handover_give(void)
{
    if (clock_read_system() - paused_ns < pause_ns) {
        return;
    }
    unsigned before = taken;
    PyThreadState *state = PyEval_SaveThread();
    (void)handover_wait(before);
    PyEval_RestoreThread(state);
}

bool
handover_answers(void)
{
    return asks;
}

PyThreadState *
handover_leave(void)
{
    taken++;
    handover_asking -= asks;
    return PyEval_SaveThread();
}

void
handover_return(PyThreadState *state)
{
    pause_ns = 0;
    handover_asking++;
    PyEval_RestoreThread(state);
    taken++;
    handover_asking -= !asks;
}

static PyObject *
hand_over_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    pause_ns = 0;
    handover_asking += !asks;
    asks = 1;
    return Py_NewRef(self);
}

static PyObject *
hand_over_exit(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count))
{
    taken++;
    handover_asking -= asks;
    asks = 0;
    Py_RETURN_NONE;
}

static PyObject *
hand_over_rest(PyObject *Py_UNUSED(self), PyObject *seconds)
{
    double duration = PyFloat_AsDouble(seconds);
    if (duration == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    PyThreadState *state = handover_leave();
    handover_sleep_ns((int64_t)(duration * (double)SECOND_NS));
    handover_return(state);
    Py_RETURN_NONE;
}

/* Reads the descriptors to wait for. Returns their number, or -1 with an exception. */
static int
read_descriptors(PyObject *given, short events, struct pollfd *descriptors)
{
    PyObject *items = PySequence_Fast(given, "wait() takes a sequence of descriptors");
    if (items == NULL) {
        return -1;
    }
    int count = (int)Py_MIN(PySequence_Fast_GET_SIZE(items), MOST_DESCRIPTORS);
    for (int number = 0; number < count; number++) {
        int descriptor = PyObject_AsFileDescriptor(PySequence_Fast_GET_ITEM(items, number));
        if (descriptor < 0) {
            count = -1;
            break;
        }
        descriptors[number] = (struct pollfd){.fd = descriptor, .events = events};
    }
    Py_DECREF(items);
    return count;
}

/* Returns the milliseconds until then, rounded up so that what waits for it does not spin. */
static int
remaining_ms(int64_t end_ns)
{
    int64_t ms = (end_ns - clock_read_system() + MILLISECOND_NS - 1) / MILLISECOND_NS;
    return (int)Py_MIN(Py_MAX(ms, 0), INT32_MAX);
}

static int64_t
end_after(double seconds)
{
    return clock_read_system() + (int64_t)(Py_MAX(seconds, 0.0) * (double)SECOND_NS);
}

/* Waits until then, or for ever if there is no end. */
static int
wait_for(struct pollfd *descriptors, int count, const int64_t *end_ns)
{
    int ready;
    do {
        ready = poll(descriptors, (nfds_t)count, end_ns == NULL ? -1 : remaining_ms(*end_ns));
    } while (ready < 0 && errno == EINTR);
    return ready;
}

static PyObject *
hand_over_wait(PyObject *Py_UNUSED(self), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"descriptors", "seconds", "write", NULL};
    PyObject *given, *timeout = Py_None;
    int write = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$p:wait", names, &given, &timeout, &write)) {
        return NULL;
    }
    double seconds = timeout == Py_None ? 0.0 : PyFloat_AsDouble(timeout);
    if (PyErr_Occurred()) {
        return NULL;
    }
    struct pollfd descriptors[MOST_DESCRIPTORS];
    int count = read_descriptors(given, write ? POLLOUT : POLLIN, descriptors);
    if (count < 0) {
        return NULL;
    }
    PyThreadState *state = handover_leave();
    int64_t end_ns = end_after(seconds);
    int ready = wait_for(descriptors, count, timeout == Py_None ? NULL : &end_ns), error = errno;
    handover_return(state);
    if (ready < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(ready > 0);
}

/* Waits until a socket can be used. Returns false, with errno, if it cannot by then. */
static bool
wait_for_socket(int descriptor, short events, int64_t end_ns)
{
    struct pollfd waited = {.fd = descriptor, .events = events};
    int ready = wait_for(&waited, 1, &end_ns);
    if (ready == 0) {
        errno = ETIMEDOUT;
    }
    return ready > 0;
}

/* Whether an operation that failed is to be tried again: what was there is gone. */
static bool
must_wait(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static ssize_t
receive(int descriptor, void *buffer, size_t size, int64_t end_ns)
{
    ssize_t count = -1;
    do {
        if (!wait_for_socket(descriptor, POLLIN, end_ns)) {
            return -1;
        }
        count = recv(descriptor, buffer, size, MSG_DONTWAIT);
    } while (count < 0 && must_wait());
    return count;
}

/* Drops what was sent from the front. */
static void
advance(struct msghdr *message, size_t sent)
{
    while (message->msg_iovlen && sent >= message->msg_iov->iov_len) {
        sent -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen) {
        message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + sent;
        message->msg_iov->iov_len -= sent;
    }
}

/* Returns false, with errno, if not all could be sent by then. */
static bool
send_all(int descriptor, struct msghdr *message, int64_t end_ns)
{
    advance(message, 0);
    while (message->msg_iovlen) {
        if (!wait_for_socket(descriptor, POLLOUT, end_ns)) {
            return false;
        }
        ssize_t sent = sendmsg(descriptor, message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && !must_wait()) {
            return false;
        }
        advance(message, (size_t)Py_MAX(sent, 0));
    }
    return true;
}

static PyObject *
hand_over_receive(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *sock;
    Py_ssize_t size;
    double seconds;
    if (!PyArg_ParseTuple(args, "Ond:receive", &sock, &size, &seconds)) {
        return NULL;
    }
    int descriptor = PyObject_AsFileDescriptor(sock);
    PyObject *received = descriptor < 0 ? NULL : PyBytes_FromStringAndSize(NULL, size);
    if (received == NULL) {
        return NULL;
    }
    PyThreadState *state = handover_leave();
    ssize_t count = receive(descriptor, PyBytes_AS_STRING(received), (size_t)size, end_after(seconds));
    int error = errno;
    handover_return(state);
    if (count < 0) {
        Py_DECREF(received);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    (void)_PyBytes_Resize(&received, count); /* it is NULL if that fails */
    return received;
}

/* Returns the number of parts, or -1 with an exception. */
static int
read_parts(PyObject *given, struct iovec *parts)
{
    int count = (int)Py_MIN(PyTuple_GET_SIZE(given), MOST_PARTS + 1);
    for (int number = 0; number < count; number++) {
        PyObject *part = PyTuple_GET_ITEM(given, number);
        if (count > MOST_PARTS || !PyBytes_Check(part)) {
            PyErr_Format(PyExc_TypeError, "send() takes a tuple of at most %d bytes objects, not %R", MOST_PARTS, Py_TYPE(part));
            return -1;
        }
        parts[number] = (struct iovec){PyBytes_AS_STRING(part), (size_t)PyBytes_GET_SIZE(part)};
    }
    return count;
}

static PyObject *
hand_over_send(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *sock, *given;
    double seconds;
    if (!PyArg_ParseTuple(args, "OO!d:send", &sock, &PyTuple_Type, &given, &seconds)) {
        return NULL;
    }
    struct iovec parts[MOST_PARTS];
    int descriptor = PyObject_AsFileDescriptor(sock), count = read_parts(given, parts);
    if (descriptor < 0 || count < 0) {
        return NULL;
    }
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    PyThreadState *state = handover_leave();
    bool sent = send_all(descriptor, &message, end_after(seconds));
    int error = errno;
    handover_return(state);
    if (!sent) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* In a forked child none of these threads exists. */
static void
forget_asking(void)
{
    handover_asking = asks = 0;
}

static PyMethodDef hand_over_methods[] = {
    {"__enter__", hand_over_enter, METH_NOARGS, "Begin to answer: loops give the interpreter up once a turn."},
    {"__exit__", (PyCFunction)(void (*)(void))hand_over_exit, METH_FASTCALL, "Stop answering."},
    {"rest", hand_over_rest, METH_O, "Sleep, so that a loop can run."},
    {"wait", (PyCFunction)(void (*)(void))hand_over_wait, METH_VARARGS | METH_KEYWORDS, "Return whether a descriptor became ready in time."},
    {"receive", hand_over_receive, METH_VARARGS, "Return what comes from a socket in time."},
    {"send", hand_over_send, METH_VARARGS, "Send bytes to a socket in time."},
    {NULL, NULL, 0, NULL},
};

static PyObject *
hand_over_asked(PyObject *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    return PyBool_FromLong(handover_is_asked());
}

static PyGetSetDef hand_over_properties[] = {
    {"asked", hand_over_asked, NULL, "Whether a thread answers, and so wants the interpreter if a loop has it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot hand_over_slots[] = {
    {Py_tp_doc, "How threads that answer scrapes get the interpreter; see aiometrics.base.handover.HandOver."},
    {Py_tp_methods, hand_over_methods},
    {Py_tp_getset, hand_over_properties},
    {0, NULL},
};

static PyType_Spec hand_over_spec = {
    .name = "aiometrics.recorder._core.HandOver",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = hand_over_slots,
};

int
handover_init_module(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &hand_over_spec, NULL);
    if (type == NULL || pthread_atfork(NULL, NULL, forget_asking) != 0) {
        Py_XDECREF(type);
        return type == NULL ? -1 : (PyErr_NoMemory(), -1);
    }
    int added = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return added;
}
