#include "table.h"

#include "constants.h"

#include <string.h>

#define FIRST_CAPACITY 64

static void
key_release(Key key)
{
    Py_XDECREF(key.first);
    Py_XDECREF(key.second);
    Py_XDECREF(key.third);
}

static void
entries_release(Entry *entries, size_t capacity)
{
    for (size_t place = 0; entries != NULL && place < capacity; place++) {
        key_release(entries[place].key);
    }
    PyMem_Free(entries);
}

int
table_open(Table *table)
{
    table->entries = PyMem_Calloc(FIRST_CAPACITY, sizeof(Entry));
    if (table->entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    table->mask = FIRST_CAPACITY - 1;
    table->used = 0;
    memset(table->front, 0, sizeof(table->front));
    return 0;
}

void
table_close(Table *table)
{
    Entry *entries = table->entries;
    table->entries = NULL;
    entries_release(entries, table->mask + 1);
}

int
table_traverse(Table *table, visitproc visit, void *arg)
{
    for (size_t place = 0; table->entries != NULL && place <= table->mask; place++) {
        Py_VISIT(table->entries[place].key.first);
        Py_VISIT(table->entries[place].key.second);
        Py_VISIT(table->entries[place].key.third);
    }
    return 0;
}

static void
entry_store(Entry *entries, size_t mask, Entry entry)
{
    size_t place = key_hash(entry.key) & mask;
    while (entries[place].key.first != NULL) {
        place = (place + 1) & mask;
    }
    entries[place] = entry;
}

/* Makes room for one more entry: a table doubles when half full, and is emptied at TABLE_LIMIT. */
static int
table_reserve(Table *table)
{
    size_t capacity = table->mask + 1;
    if (table->used < capacity / 2) {
        return 0;
    }
    if (table->used >= TABLE_LIMIT) {
        Table old = *table;
        if (table_open(table) < 0) {
            *table = old;
            return -1;
        }
        table_close(&old);
        return 0;
    }
    Entry *entries = PyMem_Calloc(capacity * 2, sizeof(Entry));
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t place = 0; place < capacity; place++) {
        if (table->entries[place].key.first != NULL) {
            entry_store(entries, capacity * 2 - 1, table->entries[place]);
        }
    }
    PyMem_Free(table->entries);
    table->entries = entries;
    table->mask = capacity * 2 - 1;
    return 0;
}

/* Looks in the table itself, and keeps what it finds in the front. */
int32_t
table_find_one(Table *table, PyObject *first)
{
    size_t place = table_front_place(first);
    int32_t value = table_get(table, (Key){first, NULL, NULL, 0});
    if (value != TABLE_MISS) {
        table->front[place].first = first;
        table->front[place].value = value;
    }
    return value;
}

int
table_put(Table *table, Key key, int32_t value)
{
    if (table_reserve(table) < 0) {
        return -1;
    }
    Py_XINCREF(key.first);
    Py_XINCREF(key.second);
    Py_XINCREF(key.third);
    entry_store(table->entries, table->mask, (Entry){key, value});
    table->used++;
    return 0;
}
