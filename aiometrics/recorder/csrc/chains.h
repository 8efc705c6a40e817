/* A cache from a chain of awaits, as it is when a task is suspended, to its yield point and its node.

   A chain is known by a hash over what the yield point depends on: the coroutine record, where each
   link is, what the chain ends at, and what the task yielded. Entries own the code and the types, so
   that an address cannot come to mean another object. Like a table (table.h), it starts anew at
   TABLE_LIMIT. */
#ifndef AIOMETRICS_CHAINS_H
#define AIOMETRICS_CHAINS_H

#include <Python.h>
#include <stdint.h>

typedef struct {
    int32_t point, node;
} Place;

/* The hash of a chain while it is walked, and the objects that it is made from, if they are kept.
   Adding one runs no Python. */
typedef struct {
    uint64_t hash;
    PyObject **objects;
    size_t count, capacity;
} Trail;

typedef struct {
    uint64_t hash; /* 0 only in an unused entry */
    Place place;
    PyObject **objects;
    size_t count;
} ChainEntry;

typedef struct {
    ChainEntry *entries;
    size_t mask; /* capacity - 1, a power of two less one */
    size_t used;
} Chains;

/* Multiplying by the golden ratio puts positions that are near each other, as those in one function
   are, so far apart that the address of another function does not make up for it. */
static inline uint64_t
chain_mix(uint64_t hash, uint64_t number)
{
    return (hash ^ number) * UINT64_C(0x9E3779B97F4A7C15);
}

static inline const Place *
chains_get(const Chains *chains, uint64_t hash)
{
    for (size_t place = (size_t)(hash >> 32) & chains->mask;; place = (place + 1) & chains->mask) {
        const ChainEntry *entry = &chains->entries[place];
        if (entry->hash == hash) {
            return &entry->place;
        }
        if (entry->hash == 0) {
            return NULL;
        }
    }
}

int chains_open(Chains *chains);
void chains_close(Chains *chains);
int chains_traverse(const Chains *chains, visitproc visit, void *arg);
/* Adds a chain, and takes the objects of its trail; -1 with an exception. */
int chains_put(Chains *chains, Trail *trail, Place place);

/* Keeps an object of a trail; -1 with an exception. */
int trail_keep(Trail *trail, PyObject *object);
void trail_clear(Trail *trail);

#endif
