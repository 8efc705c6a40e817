#include "roots.h"

#include "scope.h"

#include <string.h>

#define LEAST_CAPACITY 64

static Root nothing[1];
Roots roots = {nothing, 0, 0};
Traced roots_left_out = {.state = DONE};

static void
store(Root *entries, size_t mask, Root root)
{
    size_t place = root_hash(root_coroutine(root)) & mask;
    while (entries[place] != 0) {
        place = (place + 1) & mask;
    }
    entries[place] = root;
}

/* -1 without an exception if there is no memory. */
static int
resize(size_t capacity)
{
    Root *entries = PyMem_Calloc(capacity, sizeof(Root));
    if (entries == NULL) {
        return -1;
    }
    for (size_t place = 0; place <= roots.mask; place++) {
        if (roots.entries[place] != 0) {
            store(entries, capacity - 1, roots.entries[place]);
        }
    }
    if (roots.entries != nothing) {
        PyMem_Free(roots.entries);
    }
    roots.entries = entries;
    roots.mask = capacity - 1;
    return 0;
}

/* The table doubles when half full. */
static int
add(Root root)
{
    size_t capacity = roots.mask + 1;
    if (roots.used + 1 > capacity / 2 && resize(Py_MAX(2 * capacity, LEAST_CAPACITY)) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    store(roots.entries, roots.mask, root);
    roots.used++;
    return 0;
}

Traced *
roots_add(PyObject *coro)
{
    Traced *traced = PyMem_Malloc(sizeof(Traced));
    if (traced == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *traced = (Traced){.coro = coro};
    if (add((Root)traced) < 0) {
        PyMem_Free(traced);
        return NULL;
    }
    return traced;
}

int
roots_leave_out(PyObject *coro, int reason)
{
    return add((Root)coro | (Root)reason);
}

/* Empties a place, and moves up the entries behind it that could not have theirs. */
static void
empty(size_t hole)
{
    size_t place = hole;
    for (;;) {
        place = (place + 1) & roots.mask;
        if (roots.entries[place] == 0) {
            break;
        }
        size_t home = root_hash(root_coroutine(roots.entries[place])) & roots.mask;
        if (((place - home) & roots.mask) >= ((place - hole) & roots.mask)) {
            roots.entries[hole] = roots.entries[place];
            hole = place;
        }
    }
    roots.entries[hole] = 0;
    roots.used--;
}

/* It halves when an eighth is used. Without memory it stays as large as it is. */
static void
shrink(void)
{
    size_t capacity = roots.mask + 1;
    if (capacity > LEAST_CAPACITY && roots.used < capacity / 8) {
        (void)resize(capacity / 2);
    }
}

static void
release(Traced *traced)
{
    if (traced->steps != 0) {
        traced->orphaned = 1;
        return;
    }
    PyMem_Free(traced);
}

/* The scope is the caller's. */
static Scope *
take_out(size_t place)
{
    Root root = roots.entries[place];
    empty(place);
    if (root & ROOT_REASON) {
        return NULL;
    }
    Scope *scope = scope_take((Traced *)root);
    release((Traced *)root);
    return scope;
}

Scope *
roots_remove(PyObject *coro)
{
    size_t place = root_hash(coro) & roots.mask;
    while (root_coroutine(roots.entries[place]) != coro) {
        place = (place + 1) & roots.mask;
    }
    Scope *scope = take_out(place);
    shrink();
    return scope;
}

void
roots_forget(const Recorder *recorder)
{
    for (size_t place = 0; place <= roots.mask;) {
        Root root = roots.entries[place];
        if (root == 0 || root & ROOT_REASON || ((Traced *)root)->recorder != recorder) {
            place++;
            continue;
        }
        (void)take_out(place); /* its scope would keep the recorder alive */
    }
    shrink();
}

void
roots_forget_refused(void)
{
    for (size_t place = 0; place <= roots.mask;) {
        if ((roots.entries[place] & ROOT_REASON) == ROOT_REFUSED) {
            (void)take_out(place);
        }
        else {
            place++;
        }
    }
    shrink();
}

/* Scopes are released last, since that may run Python, which may add to the table. */
void
roots_clear(void)
{
    Roots old = roots;
    roots = (Roots){nothing, 0, 0};
    for (size_t place = 0; place <= old.mask; place++) {
        Root root = old.entries[place];
        old.entries[place] = 0;
        if (root != 0 && !(root & ROOT_REASON)) {
            Traced *traced = (Traced *)root;
            recorder_retire(traced->recorder);
            old.entries[place] = (Root)scope_take(traced);
            release(traced);
        }
    }
    for (size_t place = 0; place <= old.mask; place++) {
        Py_XDECREF((PyObject *)old.entries[place]);
    }
    if (old.entries != nothing) {
        PyMem_Free(old.entries);
    }
}
