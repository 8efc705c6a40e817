/* Finds the yield point of a suspended task, the innermost frame of the highest origin in the await
   chain, and what it awaits; and the node of that chain: the twin of aiometrics/recorder/locate.py.

   A chain that was met before is known by its hash (chains.h). Another one is walked, link by link.
   The walk runs on borrowed references, which the suspended frames keep alive as long as no Python
   code runs. Where Python must be asked, about code or a type that is new, the answer is cached and
   the walk begins again. For the few types that must be asked each time, all that the walk knows is
   kept alive. */
#include "await_chain.h"
#include "errors.h"
#include "recorder.h"

static PyObject *chain_module; /* aiometrics.recorder.await_chain */

int
locate_init(void)
{
    chain_module = PyImport_ImportModule("aiometrics.recorder.await_chain");
    if (chain_module == NULL) {
        return -1;
    }
    PyObject *samples = PyObject_CallMethod(chain_module, "in_every_state", NULL);
    int result = samples == NULL ? -1 : frame_init(samples);
    Py_XDECREF(samples);
    return result;
}

typedef struct {
    PyObject *owner;      /* the link whose frame is chosen so far */
    PyObject *owner_code; /* NULL if its code is unknown */
    PyObject *callee;     /* the link right below it, or NULL */
    PyObject *callee_code; /* NULL if it has none */
    Trail *trail;
    PyObject *kept_alive; /* a list of objects that no frame keeps alive, or NULL */
    int32_t origin;
    int below; /* the next link is the callee */
} Choice;

typedef enum { FAILED_WALK = -1, ENDED, GOES_ON, LEARNED } Step;

/* Asks Python for a number about `subject` and caches the answer under `key`. */
static Step
learn(Table *table, PyObject *key, PyObject *object, const char *method, PyObject *subject)
{
    PyObject *answer = call_uninterrupted(object, method, "(O)", subject);
    if (answer == NULL) {
        return FAILED_WALK;
    }
    long number = PyLong_AsLong(answer);
    Py_DECREF(answer);
    if (number < 0 || number > INT32_MAX || table_put(table, (Key){key, NULL, NULL, 0}, (int32_t)number) < 0) {
        return FAILED_WALK;
    }
    return LEARNED;
}

static Step
learn_origin(Recorder *self, PyObject *code, PyObject *link)
{
    Py_INCREF(code);
    Py_INCREF(link);
    Step step = learn(&self->origins, code, self->labels, "origin", link);
    Py_DECREF(link);
    Py_DECREF(code);
    return step;
}

static Step
learn_hop(Recorder *self, PyObject *link)
{
    PyObject *type = Py_NewRef((PyObject *)Py_TYPE(link));
    Step step = learn(&self->hops, type, chain_module, "hop", type);
    Py_DECREF(type);
    return step;
}

/* A generator is known by the instruction that it is at; one that is finished by its type. */
static inline uint64_t
mix_generator(uint64_t hash, PyObject *generator, int read)
{
    if (read && !frame_is_finished(generator)) {
        return chain_mix(hash, frame_read_position(generator));
    }
    PyObject *code = frame_code(generator, read);
    if (code == NULL) {
        return chain_mix(hash, (uintptr_t)Py_TYPE(generator));
    }
    return chain_mix(chain_mix(hash, (uintptr_t)code), (uint64_t)frame_lasti(generator));
}

static inline uint64_t
first_hash(const Traced *traced)
{
    return chain_mix(0, (uint64_t)traced->record + 1);
}

static inline uint64_t
last_hash(uint64_t hash, PyObject *yielded)
{
    hash = chain_mix(hash, (uintptr_t)Py_TYPE(yielded));
    return hash + (hash == 0);
}

/* The hash of a chain of generators, and of what C can see through; 0 if it has to be walked. */
static inline uint64_t
hash_of(Recorder *self, PyObject *link, uint64_t hash, int read)
{
    for (int depth = 0; link != NULL && depth < MAX_DEPTH; depth++) {
        if (chain_is_generator(link)) {
            hash = mix_generator(hash, link, read);
            link = frame_awaited(link, read);
            continue;
        }
        int32_t hop = table_get_one(&self->hops, (PyObject *)Py_TYPE(link));
        hash = chain_mix(hash, (uintptr_t)Py_TYPE(link));
        if (hop == CHAIN_ENDS) {
            return hash;
        }
        link = hop == CHAIN_HIDES ? chain_hidden(link) : NULL;
        if (link == NULL) {
            return 0;
        }
    }
    return hash;
}

static const Place *
known_place(Recorder *self, const Traced *traced, PyObject *yielded)
{
    uint64_t first = first_hash(traced);
    uint64_t hash = frame_is_read ? hash_of(self, traced->coro, first, 1) : hash_of(self, traced->coro, first, 0);
    return hash == 0 ? NULL : chains_get(&self->chains, last_hash(hash, yielded));
}

/* Adds what a link is known by to the trail. */
static Step
note(Trail *trail, PyObject *object)
{
    trail->hash = chain_mix(trail->hash, (uintptr_t)object);
    return trail_keep(trail, object) < 0 ? FAILED_WALK : GOES_ON;
}

static Step
note_generator(Trail *trail, PyObject *generator, PyObject *code, int read)
{
    trail->hash = mix_generator(trail->hash, generator, read);
    return trail_keep(trail, code != NULL ? code : (PyObject *)Py_TYPE(generator)) < 0 ? FAILED_WALK : GOES_ON;
}

/* Makes `link` the choice if its origin is high enough, or the callee of the present choice. */
static inline Step
consider(Recorder *self, Choice *choice, PyObject *link, PyObject *code)
{
    if (choice->below) {
        choice->callee = link;
        choice->callee_code = code;
        choice->below = 0;
    }
    if (code == NULL) {
        return GOES_ON;
    }
    int32_t origin = table_get_one(&self->origins, code);
    if (origin == TABLE_MISS) {
        return learn_origin(self, code, link);
    }
    if (origin >= choice->origin) {
        choice->owner = link;
        choice->owner_code = code;
        choice->callee = choice->callee_code = NULL;
        choice->origin = origin;
        choice->below = 1;
    }
    return GOES_ON;
}

/* Follows generators with the choice in registers. `read` is a constant wherever this is called, so
   that no hop tests it. */
static inline Step
follow(Recorder *self, Choice *choice, PyObject **link, int *depth, int read)
{
    Choice found = *choice;
    PyObject *next = *link;
    Step step = GOES_ON;
    while (next != NULL && *depth < MAX_DEPTH && chain_is_generator(next)) {
        PyObject *code = frame_code(next, read);
        step = note_generator(found.trail, next, code, read);
        if (step == GOES_ON) {
            step = consider(self, &found, next, code);
        }
        if (step != GOES_ON) {
            break;
        }
        next = frame_awaited(next, read);
        ++*depth;
    }
    *choice = found;
    *link = next;
    return next == NULL ? ENDED : step;
}

/* Follows generators, which is what most chains consist of. */
static Step
follow_generators(Recorder *self, Choice *choice, PyObject **link, int *depth)
{
    if (frame_is_read) {
        return follow(self, choice, link, depth, 1);
    }
    return follow(self, choice, link, depth, 0);
}

/* Keeps objects alive until the walk ends; NULLs are skipped. Making the list may collect garbage,
   which may run Python, so the objects are kept alive meanwhile too. */
static int
keep_alive(Choice *choice, PyObject *const *objects, size_t count)
{
    int result = 0;
    for (size_t place = 0; place < count; place++) {
        Py_XINCREF(objects[place]);
    }
    if (choice->kept_alive == NULL) {
        choice->kept_alive = PyList_New(0);
    }
    for (size_t place = 0; place < count; place++) {
        if (result == 0 && objects[place] != NULL) {
            result = choice->kept_alive == NULL ? -1 : PyList_Append(choice->kept_alive, objects[place]);
        }
        Py_XDECREF(objects[place]);
    }
    return result;
}

/* Returns the answer of aiometrics.recorder.await_chain about `link`, kept alive; NULL with an
   exception. */
static PyObject *
ask(Choice *choice, const char *function, PyObject *link)
{
    PyObject *answer = call_uninterrupted(chain_module, function, "(O)", link);
    if (answer == NULL || keep_alive(choice, &answer, 1) < 0) {
        Py_XDECREF(answer);
        return NULL;
    }
    Py_DECREF(answer);
    return answer;
}

/* Follows a type that C cannot see through: coroutines of Cython, and what drives them. */
static Step
follow_asking(Recorder *self, Choice *choice, PyObject **link, int nameless)
{
    PyObject *needed[] = {choice->owner, choice->owner_code, choice->callee, choice->callee_code, *link};
    if (keep_alive(choice, needed, Py_ARRAY_LENGTH(needed)) < 0) {
        return FAILED_WALK;
    }
    PyObject *code = nameless ? Py_None : ask(choice, "code_of", *link);
    if (code == NULL) {
        return FAILED_WALK;
    }
    Step step = code == Py_None ? GOES_ON : note(choice->trail, code);
    if (step == GOES_ON && !nameless) {
        step = consider(self, choice, *link, code == Py_None ? NULL : code);
    }
    if (step != GOES_ON) {
        return step;
    }
    *link = ask(choice, "awaited_by", *link);
    return *link == NULL ? FAILED_WALK : *link == Py_None ? ENDED : GOES_ON;
}

static Step
follow_other(Recorder *self, Choice *choice, PyObject **link)
{
    int32_t hop = table_get_one(&self->hops, (PyObject *)Py_TYPE(*link));
    if (hop == TABLE_MISS) {
        return learn_hop(self, *link);
    }
    if (note(choice->trail, (PyObject *)Py_TYPE(*link)) != GOES_ON) {
        return FAILED_WALK;
    }
    if (hop == CHAIN_ENDS) {
        (void)consider(self, choice, *link, NULL);
        return ENDED;
    }
    PyObject *hidden = hop == CHAIN_HIDES ? chain_hidden(*link) : NULL;
    if (hidden == NULL) {
        return follow_asking(self, choice, link, hop != CHAIN_ASKS);
    }
    *link = hidden;
    return GOES_ON;
}

static Step
walk(Recorder *self, Choice *choice, const Traced *traced)
{
    PyObject *root = traced->coro, *link = root;
    *choice = (Choice){.owner = root, .origin = -1, .trail = choice->trail};
    choice->trail->hash = first_hash(traced);
    for (int depth = 0; depth < MAX_DEPTH; depth++) {
        Step step = follow_generators(self, choice, &link, &depth);
        if (step == GOES_ON && depth < MAX_DEPTH) {
            step = follow_other(self, choice, &link);
        }
        if (step != GOES_ON) {
            return step;
        }
    }
    return ENDED;
}

/* Yield points of one instruction differ by the callee's code, or else its type, and by the type of
   the future that the task waits for. */
static Key
key_of(const Traced *traced, const Choice *choice, PyObject *yielded)
{
    int seen = choice->owner_code != NULL && chain_is_generator(choice->owner);
    int lasti = seen ? frame_lasti(choice->owner) : 0;
    Key key = {choice->owner_code != NULL ? choice->owner_code : (PyObject *)Py_TYPE(choice->owner), NULL, (PyObject *)Py_TYPE(yielded),
               (uint64_t)(uint32_t)traced->record << 32 | (uint32_t)lasti};
    if (choice->callee != NULL) {
        key.second = choice->callee_code != NULL ? choice->callee_code : (PyObject *)Py_TYPE(choice->callee);
    }
    return key;
}

static int32_t
new_point(Recorder *self, const Traced *traced, Choice *choice, Key key, PyObject *yielded)
{
    PyObject *needed[] = {choice->owner, choice->callee, key.first, key.second, key.third};
    if (keep_alive(choice, needed, Py_ARRAY_LENGTH(needed)) < 0) {
        return -1;
    }
    PyObject *callee = choice->callee == NULL ? Py_None : choice->callee;
    PyObject *answer =
        call_uninterrupted(self->labels, "yield_point", "(iOOO)", (int)traced->record, choice->owner, callee, yielded);
    int32_t point = number_within(answer, self->page.last_point);
    return point < 0 || table_put(&self->points, key, point) < 0 ? -1 : point;
}

static int32_t
point_of(Recorder *self, const Traced *traced, Choice *choice, PyObject *yielded)
{
    Key key = key_of(traced, choice, yielded);
    int32_t point = table_get(&self->points, key);
    return point == TABLE_MISS ? new_point(self, traced, choice, key, yielded) : point;
}

/* The node of a chain that ends at a yield point; -1 with an exception. */
static int32_t
node_of(Recorder *self, const Traced *traced, int32_t point)
{
    if (page_chains_full(&self->page)) {
        return point != 0 ? OTHER_NODE : OTHER_POINT_NODE;
    }
    return number_within(call_uninterrupted(self->labels, "chain_node", "(iO)", (int)point, traced->coro), self->page.last_node);
}

/* Finds the place of a chain that was walked, and caches it. Once there is no room for new nodes, the cache does not start anew: programs
   whose chains never repeat would ask without end. */
static int
place_of(Recorder *self, const Traced *traced, Choice *choice, PyObject *yielded, Place *place)
{
    Trail *trail = choice->trail;
    trail->hash = last_hash(trail->hash, yielded);
    const Place *known = chains_get(&self->chains, trail->hash);
    if (known != NULL) {
        *place = *known;
        return 0;
    }
    if (trail_keep(trail, (PyObject *)Py_TYPE(yielded)) < 0 || (place->point = point_of(self, traced, choice, yielded)) < 0 ||
        (place->node = node_of(self, traced, place->point)) < 0) {
        return -1;
    }
    return self->chains.used >= TABLE_LIMIT && page_chains_full(&self->page) ? 0 : chains_put(&self->chains, trail, *place);
}

SELDOM static int
locate_anew(Recorder *self, const Traced *traced, PyObject *yielded, Place *place)
{
    Trail trail = {0};
    Choice choice = {.trail = &trail};
    Step step = LEARNED;
    for (int learned = 0; step == LEARNED && learned < 2 * MAX_DEPTH; learned++) {
        step = walk(self, &choice, traced);
        if (step == LEARNED) {
            Py_CLEAR(choice.kept_alive);
            trail_clear(&trail);
        }
    }
    int result = step == ENDED ? place_of(self, traced, &choice, yielded, place) : -1;
    Py_XDECREF(choice.kept_alive);
    trail_clear(&trail);
    return result;
}

int
locate(Recorder *self, Traced *traced, PyObject *yielded, Place *place)
{
    const Place *known = known_place(self, traced, yielded);
    if (known == NULL) {
        return locate_anew(self, traced, yielded, place);
    }
    *place = *known;
    return 0;
}
