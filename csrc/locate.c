/* The yield point: the innermost frame of the highest kind in the await chain, and what it awaits. */
#include "chain.h"
#include "recorder.h"

static PyObject *chain_module; /* aiometrics.chain */

int
locate_init(void)
{
    chain_module = PyImport_ImportModule("aiometrics.chain");
    return chain_module == NULL ? -1 : chain_init();
}

static int32_t
ask(PyObject *object, const char *method, PyObject *argument)
{
    PyObject *answer = PyObject_CallMethod(object, method, "O", argument);
    if (answer == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(answer);
    Py_DECREF(answer);
    return (int32_t)number;
}

static int32_t
kind_of(Recorder *self, PyObject *link, PyObject *code)
{
    Key key = {code, NULL, NULL, 0};
    int32_t kind = table_get(&self->kinds, key);
    if (kind == TABLE_MISS) {
        kind = ask(self->directory, "kind", link);
        if (kind < 0 || table_put(&self->kinds, key, kind) < 0) {
            return -1;
        }
    }
    return kind;
}

static int32_t
hop_of(Recorder *self, PyObject *link)
{
    Key key = {(PyObject *)Py_TYPE(link), NULL, NULL, 0};
    int32_t hop = table_get(&self->hops, key);
    if (hop == TABLE_MISS) {
        hop = ask(chain_module, "hop", (PyObject *)Py_TYPE(link));
        if (hop < 0 || table_put(&self->hops, key, hop) < 0) {
            return -1;
        }
    }
    return hop;
}

/* What `link`, which is no generator, leads on to: a new reference, Py_None at the end. */
static PyObject *
next_foreign(Recorder *self, PyObject *link)
{
    int32_t hop = hop_of(self, link);
    if (hop < 0) {
        return NULL;
    }
    if (hop == CHAIN_ENDS) {
        return Py_NewRef(Py_None);
    }
    PyObject *hidden = hop == CHAIN_HIDES ? chain_hidden(link) : NULL;
    return hidden != NULL ? hidden : PyObject_CallMethod(chain_module, "awaited_by", "O", link);
}

/* The code that `link`, which is no generator, runs: Cython's coroutines have one. A new reference, or Py_None. */
static PyObject *
code_of_foreign(Recorder *self, PyObject *link)
{
    int32_t hop = hop_of(self, link);
    if (hop < 0) {
        return NULL;
    }
    return hop == CHAIN_ASKS ? PyObject_CallMethod(chain_module, "code_of", "O", link) : Py_NewRef(Py_None);
}

static PyObject *
code_of(Recorder *self, PyObject *link)
{
    if (!chain_is_generator(link)) {
        return code_of_foreign(self, link);
    }
    PyObject *code = chain_generator_code(link);
    return Py_NewRef(code == NULL ? Py_None : code);
}

/* Strong references throughout: on the way, naming may run any Python code. */
typedef struct {
    PyObject *owner;      /* whose frame was chosen so far */
    PyObject *owner_code; /* Py_None if it runs none */
    PyObject *callee;     /* what is right below it, or NULL */
    int32_t kind;
} Choice;

static void
choice_release(Choice *choice)
{
    Py_CLEAR(choice->owner);
    Py_CLEAR(choice->owner_code);
    Py_CLEAR(choice->callee);
}

static void
choose(Choice *choice, PyObject *link, PyObject *code, int32_t kind)
{
    Py_XSETREF(choice->owner, Py_NewRef(link));
    Py_XSETREF(choice->owner_code, Py_NewRef(code));
    Py_CLEAR(choice->callee);
    choice->kind = kind;
}

/* One link of the chain: may become the choice, or the callee of the one that is. */
static int
consider(Recorder *self, Choice *choice, PyObject *link, int *below)
{
    if (*below) {
        choice->callee = Py_NewRef(link);
        *below = 0;
    }
    PyObject *code = code_of(self, link);
    if (code == NULL) {
        return -1;
    }
    if (code != Py_None) {
        int32_t kind = kind_of(self, link, code);
        if (kind < 0) {
            Py_DECREF(code);
            return -1;
        }
        if (kind >= choice->kind) {
            choose(choice, link, code, kind);
            *below = 1;
        }
    }
    Py_DECREF(code);
    return 0;
}

static int
walk(Recorder *self, Choice *choice, PyObject *root)
{
    int below = 0;
    PyObject *link = Py_NewRef(root);
    while (link != Py_None) {
        if (consider(self, choice, link, &below) < 0) {
            Py_DECREF(link);
            return -1;
        }
        PyObject *next = chain_is_generator(link) ? chain_generator_awaits(link) : next_foreign(self, link);
        Py_DECREF(link);
        if (next == NULL) {
            return -1;
        }
        link = next;
    }
    Py_DECREF(link);
    return 0;
}

/* What tells two yield points of one instruction apart: the callee's code, or its type and that of the future the task waits for. */
static Key
key_of(const Traced *traced, const Choice *choice, PyObject *yielded)
{
    PyObject *code = choice->owner_code;
    Key key = {code != Py_None ? code : (PyObject *)Py_TYPE(choice->owner), (PyObject *)Py_TYPE(yielded), NULL, 0};
    int lasti = code != Py_None && chain_is_generator(choice->owner) ? chain_generator_lasti(choice->owner) : 0;
    key.number = (uint64_t)(uint32_t)traced->record << 32 | (uint32_t)lasti;
    if (choice->callee == NULL) {
        return key;
    }
    PyObject *callee_code = chain_is_generator(choice->callee) ? chain_generator_code(choice->callee) : NULL;
    key.third = callee_code != NULL ? callee_code : (PyObject *)Py_TYPE(choice->callee);
    return key;
}

static int32_t
new_point(Recorder *self, const Traced *traced, const Choice *choice, PyObject *yielded)
{
    PyObject *callee = choice->callee == NULL ? Py_None : choice->callee;
    PyObject *answer =
        PyObject_CallMethod(self->directory, "yield_point", "iOOO", (int)traced->record, choice->owner, callee, yielded);
    if (answer == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(answer);
    Py_DECREF(answer);
    if (number < 0 || number > self->page.max_points) {
        PyErr_Format(PyExc_ValueError, "yield point %ld is not in the page", number);
        return -1;
    }
    return (int32_t)number;
}

int32_t
locate(Recorder *self, Traced *traced, PyObject *yielded)
{
    Choice choice = {Py_NewRef(traced->coro), Py_NewRef(Py_None), NULL, -1};
    int32_t point = -1;
    if (walk(self, &choice, traced->coro) == 0) {
        Key key = key_of(traced, &choice, yielded);
        point = table_get(&self->points, key);
        if (point == TABLE_MISS) {
            point = new_point(self, traced, &choice, yielded);
            if (point >= 0 && table_put(&self->points, key, point) < 0) {
                point = -1;
            }
        }
    }
    choice_release(&choice);
    return point;
}
