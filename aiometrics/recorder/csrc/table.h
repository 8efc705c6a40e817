/* A cache from what the recorder meets (code objects, types, places) to small numbers.

   Keys own their objects, so that an address cannot come to mean another object. A table with
   TABLE_LIMIT entries starts anew, because programs that generate code without end must not fill
   the memory. */
#ifndef AIOMETRICS_TABLE_H
#define AIOMETRICS_TABLE_H

#include <Python.h>
#include <stdint.h>

#define TABLE_MISS (-1)

typedef struct {
    PyObject *first; /* NULL only in an unused entry */
    PyObject *second;
    PyObject *third;
    uint64_t number;
} Key;

typedef struct {
    Key key;
    int32_t value;
} Entry;

#define TABLE_FRONT_BITS 9
#define TABLE_FRONT (1 << TABLE_FRONT_BITS)

typedef struct {
    Entry *entries;
    size_t mask; /* capacity - 1, a power of two less one */
    size_t used;
    struct {
        PyObject *first; /* borrowed from the entry */
        int32_t value;
    } front[TABLE_FRONT]; /* the entries found last, for keys of one object */
} Table;

int table_open(Table *table);
void table_close(Table *table);
int table_traverse(Table *table, visitproc visit, void *arg);
int table_put(Table *table, Key key, int32_t value);

static inline size_t
key_hash(Key key)
{
    uint64_t hash = ((uint64_t)(uintptr_t)key.first >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    hash ^= (((uint64_t)(uintptr_t)key.second >> 4) ^ key.number) * UINT64_C(0xC2B2AE3D27D4EB4F);
    hash ^= ((uint64_t)(uintptr_t)key.third >> 4) * UINT64_C(0x165667B19E3779F9);
    return (size_t)(hash ^ (hash >> 29));
}

static inline int
key_equal(Key one, Key two)
{
    return one.first == two.first && one.second == two.second && one.third == two.third && one.number == two.number;
}

static inline int32_t
table_get(const Table *table, Key key)
{
    for (size_t place = key_hash(key) & table->mask;; place = (place + 1) & table->mask) {
        const Entry *entry = &table->entries[place];
        if (entry->key.first == NULL) {
            return TABLE_MISS;
        }
        if (key_equal(entry->key, key)) {
            return entry->value;
        }
    }
}

int32_t table_find_one(Table *table, PyObject *first);

static inline size_t
table_front_place(PyObject *first)
{
    return (size_t)((uint64_t)(uintptr_t)first * UINT64_C(0x9E3779B97F4A7C15) >> (64 - TABLE_FRONT_BITS));
}

/* table_get for keys of one object. */
static inline int32_t
table_get_one(Table *table, PyObject *first)
{
    size_t place = table_front_place(first);
    return table->front[place].first == first ? table->front[place].value : table_find_one(table, first);
}

#endif
