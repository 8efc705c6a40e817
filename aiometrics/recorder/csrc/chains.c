#include "chains.h"
#include "constants.h"

#define FEWEST ((size_t)64)

int
chains_open(Chains *chains)
{
    chains->entries = PyMem_Calloc(FEWEST, sizeof(ChainEntry));
    chains->mask = FEWEST - 1;
    chains->used = 0;
    if (chains->entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void
release(PyObject **objects, size_t count)
{
    for (size_t number = 0; number < count; number++) {
        Py_DECREF(objects[number]);
    }
    PyMem_Free(objects);
}

void
chains_close(Chains *chains)
{
    ChainEntry *entries = chains->entries;
    chains->entries = NULL;
    for (size_t place = 0; entries != NULL && place <= chains->mask; place++) {
        release(entries[place].objects, entries[place].count);
    }
    PyMem_Free(entries);
}

int
chains_traverse(const Chains *chains, visitproc visit, void *arg)
{
    for (size_t place = 0; chains->entries != NULL && place <= chains->mask; place++) {
        const ChainEntry *entry = &chains->entries[place];
        for (size_t number = 0; number < entry->count; number++) {
            Py_VISIT(entry->objects[number]);
        }
    }
    return 0;
}

static void
store(ChainEntry *entries, size_t mask, ChainEntry entry)
{
    size_t place = (size_t)(entry.hash >> 32) & mask;
    while (entries[place].hash != 0) {
        place = (place + 1) & mask;
    }
    entries[place] = entry;
}

/* Makes room for one more chain: the cache doubles when half full, and is emptied at TABLE_LIMIT. */
static int
reserve(Chains *chains)
{
    size_t capacity = chains->mask + 1;
    if (chains->used < capacity / 2) {
        return 0;
    }
    Chains old = *chains;
    if (chains->used >= TABLE_LIMIT) {
        if (chains_open(chains) < 0) {
            *chains = old;
            return -1;
        }
        chains_close(&old);
        return 0;
    }
    ChainEntry *entries = PyMem_Calloc(capacity * 2, sizeof(ChainEntry));
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t place = 0; place < capacity; place++) {
        if (old.entries[place].hash != 0) {
            store(entries, capacity * 2 - 1, old.entries[place]);
        }
    }
    chains->entries = entries;
    chains->mask = capacity * 2 - 1;
    PyMem_Free(old.entries);
    return 0;
}

int
chains_put(Chains *chains, Trail *trail, Place place)
{
    if (reserve(chains) < 0) {
        return -1;
    }
    store(chains->entries, chains->mask, (ChainEntry){trail->hash, place, trail->objects, trail->count});
    chains->used++;
    *trail = (Trail){.hash = trail->hash};
    return 0;
}

int
trail_keep(Trail *trail, PyObject *object)
{
    if (trail->count == trail->capacity) {
        size_t capacity = trail->capacity == 0 ? 16 : 2 * trail->capacity;
        PyObject **objects = PyMem_Realloc(trail->objects, capacity * sizeof(PyObject *));
        if (objects == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        trail->objects = objects;
        trail->capacity = capacity;
    }
    trail->objects[trail->count++] = Py_NewRef(object);
    return 0;
}

void
trail_clear(Trail *trail)
{
    PyObject **objects = trail->objects;
    size_t count = trail->count;
    *trail = (Trail){0};
    release(objects, count);
}
