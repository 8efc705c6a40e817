#include "records.h"

#include "copying.h"
#include "handover.h"
#include "page.h"

#include <stdlib.h>

#define MOST_UNIX_NS (INT64_C(1) << 62)
/* A page with more of a kind is declined. */
#define MOST_RECORDS (2 * MAX_RECORDS)

PyTypeObject *records_type;

/* --- what a copy must be like: nothing in it is used before ---------------------------------------- */

static bool
is_utf8(Bytes text)
{
    const unsigned char *byte = (const unsigned char *)text.start, *end = byte + text.length;
    while (byte < end) {
        unsigned lead = *byte++;
        if (lead < 0x80) {
            continue;
        }
        int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        if (lead < 0xC2 || lead > 0xF4 || end - byte < more) {
            return false;
        }
        /* No overlong forms, no surrogates, nothing beyond U+10FFFF. */
        if ((lead == 0xE0 && *byte < 0xA0) || (lead == 0xED && *byte > 0x9F) || (lead == 0xF0 && *byte < 0x90) || (lead == 0xF4 && *byte > 0x8F)) {
            return false;
        }
        for (; more > 0; more--) {
            if ((*byte++ & 0xC0) != 0x80) {
                return false;
            }
        }
    }
    return true;
}

static Bytes
text_of(const Copy *copy, int64_t reference)
{
    return (Bytes){copy->strings + (reference >> 32), (size_t)(reference & 0xFFFFFFFF)};
}

static bool
is_text(const Copy *copy, int64_t reference)
{
    int64_t start = reference >> 32, length = reference & 0xFFFFFFFF;
    return reference >= 0 && length <= NAME_BYTES && start + length <= copy->strings_used && is_utf8(text_of(copy, reference));
}

static bool
are_counts(const int64_t *words, Py_ssize_t count)
{
    for (Py_ssize_t word = 0; word < count; word++) {
        if (words[word] < 0) {
            return false;
        }
    }
    return true;
}

static const int64_t *
coroutine_of(const Records *self, const Copy *copy, Py_ssize_t number)
{
    return copy->words + copy->coroutines + number * self->coroutine_words;
}

static const int64_t *
point_of(const Records *self, const Copy *copy, Py_ssize_t number)
{
    return copy->words + copy->points + number * self->point_words;
}

static bool
is_sound_point(const Copy *copy, const int64_t *point)
{
    int64_t oldest = point[POINT_OLDEST_NS], offset = copy->unix_offset_ns;
    return point[POINT_COROUTINE] < copy->coroutine_count && is_text(copy, point[POINT_YIELD_POINT]) && is_text(copy, point[POINT_AWAITS]) &&
           point[POINT_SQUARE_S2] <= MOST_SQUARE_S2 && point[POINT_SQUARE_NS2] < (int64_t)SQUARE_NS2 &&
           (oldest == 0 || (oldest > -offset && oldest < MOST_UNIX_NS - offset));
}

/* An entry of the table of lines that held the loop; without a length it is not in use. */
static const int64_t *
held_of(const Copy *copy, Py_ssize_t number)
{
    return copy->words + copy->held + number * HELD_WORDS;
}

static Bytes
text_of_held(const int64_t *held)
{
    return (Bytes){(const char *)(held + HELD_SCALARS), (size_t)held[HELD_LENGTH]};
}

static bool
is_sound_held(const Copy *copy, const int64_t *held)
{
    int64_t length = held[HELD_LENGTH], coroutine = held[HELD_COROUTINE];
    return length == 0 || (length > 0 && length <= (HELD_WORDS - HELD_SCALARS) * (int64_t)WORD_BYTES && held[HELD_SAMPLES] >= 0 &&
                           held[HELD_ACTIVE_NS] >= 0 && coroutine >= NO_COROUTINE && coroutine < copy->coroutine_count && is_utf8(text_of_held(held)));
}

static const int64_t *
request_wait_of(const Copy *copy, Py_ssize_t number)
{
    return copy->words + copy->waits + number * REQUEST_WAIT_SCALARS;
}

static const int64_t *
request_of(const Records *self, const Copy *copy, Py_ssize_t number)
{
    return copy->words + copy->requests + number * self->request_words;
}

static bool
is_sound_wait(const Copy *copy, const int64_t *wait)
{
    int64_t request = wait[REQUEST_WAIT_REQUEST];
    return request >= 0 && request < copy->request_count && wait[REQUEST_WAIT_WAIT_NS] >= 0 && is_text(copy, wait[REQUEST_WAIT_AWAITS]);
}

static bool
are_sound_requests(const Records *self, const Copy *copy)
{
    for (Py_ssize_t number = 0; number < copy->request_count; number++) {
        const int64_t *request = request_of(self, copy, number);
        if (!are_counts(request, self->request_words) || !is_text(copy, request[REQUEST_NAME])) {
            return false;
        }
    }
    for (Py_ssize_t number = 0; number < copy->wait_count; number++) {
        if (!is_sound_wait(copy, request_wait_of(copy, number))) {
            return false;
        }
    }
    return true;
}

static bool
are_sound_lines(const Copy *copy)
{
    for (Py_ssize_t number = 0; number < MAX_HELD; number++) {
        if (!is_sound_held(copy, held_of(copy, number))) {
            return false;
        }
    }
    return true;
}

static bool
is_sound_path(const Copy *copy, const int64_t *path)
{
    int64_t began = path[SEGMENT_PATH_BEGAN], ended = path[SEGMENT_PATH_ENDED];
    return path[SEGMENT_PATH_SEGMENTS] == 0 ||
           (began >= AT_START && began < copy->point_count && ended >= 0 && ended < copy->point_count);
}

/* Returns how many frames lead to the parent of a node; -1 if it cannot be the parent. `frames` has
   this for the nodes before that can be parents, and one more, and else 0. */
static int
frames_above(const uint8_t *frames, int64_t parent, Py_ssize_t number)
{
    if (parent == NO_NODE) {
        return 0;
    }
    if (parent < OWN_CHAIN_NODES || parent >= number || frames[parent] == 0) {
        return -1;
    }
    return frames[parent] > MAX_CHAIN_FRAMES ? -1 : frames[parent];
}

static bool
are_sound_nodes(const Copy *copy, uint8_t *frames)
{
    for (Py_ssize_t number = OWN_CHAIN_NODES; number < copy->node_count; number++) {
        const int64_t *node = copy->words + copy->nodes + number * CHAIN_NODE_SCALARS;
        int64_t point = node[CHAIN_NODE_POINT];
        int above = frames_above(frames, node[CHAIN_NODE_PARENT], number);
        if (above < 0 || !is_text(copy, node[CHAIN_NODE_PLACE]) || (point != NO_POINT && (point < 0 || point >= copy->point_count))) {
            return false;
        }
        frames[number] = point == NO_POINT ? (uint8_t)(above + 1) : 0;
    }
    return true;
}

static bool
is_sound_tree(const Copy *copy)
{
    uint8_t *frames = calloc((size_t)copy->node_count + 1, 1);
    bool sound = frames != NULL && are_sound_nodes(copy, frames);
    free(frames);
    return sound;
}

static bool
is_sound(const Records *self, const Copy *copy)
{
    const int64_t *loop = copy->words + copy->loop;
    if (copy->threshold_ns < 0 || loop[LOOP_SEGMENT_SINCE_NS] < 0 || loop[LOOP_SEGMENT_COUNTED_NS] < 0 || loop[LOOP_LOOKED_NS] < 0) {
        return false;
    }
    for (Py_ssize_t number = 0; number < copy->coroutine_count; number++) {
        const int64_t *coroutine = coroutine_of(self, copy, number);
        if (!are_counts(coroutine, self->coroutine_words) || !is_text(copy, coroutine[COROUTINE_NAME])) {
            return false;
        }
    }
    for (Py_ssize_t number = 0; number < copy->point_count; number++) {
        const int64_t *point = point_of(self, copy, number);
        if (!are_counts(point, self->point_words) || !is_sound_point(copy, point)) {
            return false;
        }
    }
    for (Py_ssize_t number = 0; number < copy->path_count; number++) {
        if (!is_sound_path(copy, copy->words + copy->paths + number * SEGMENT_PATH_SCALARS)) {
            return false;
        }
    }
    return are_sound_lines(copy) && are_sound_requests(self, copy) && is_sound_tree(copy);
}

static bool
fits(Py_ssize_t start, Py_ssize_t count, Py_ssize_t words, Py_ssize_t total)
{
    return start >= 0 && count >= 0 && start <= total && count <= (total - start) / words;
}

/* Whether the parts of the copy are where they are said to be, and are not many. */
static bool
is_laid_out(const Records *self, const Copy *copy)
{
    if ((uintptr_t)copy->buffer.buf % sizeof(int64_t) || copy->unix_offset_ns <= -MOST_UNIX_NS || copy->unix_offset_ns >= MOST_UNIX_NS) {
        return false;
    }
    Py_ssize_t total = copy->buffer.len / WORD_BYTES, strings = copy->strings - (const char *)copy->buffer.buf;
    return fits(copy->loop, 1, LOOP_SCALARS, total) && fits(copy->coroutines, copy->coroutine_count, self->coroutine_words, total) &&
           fits(copy->points, copy->point_count, self->point_words, total) && fits(copy->nodes, copy->node_count, CHAIN_NODE_SCALARS, total) && fits(copy->paths, copy->path_count, SEGMENT_PATH_SCALARS, total) &&
           fits(copy->held, MAX_HELD, HELD_WORDS, total) && fits(copy->requests, copy->request_count, self->request_words, total) &&
           fits(copy->waits, copy->wait_count, REQUEST_WAIT_SCALARS, total) && fits(strings, copy->strings_used, 1, copy->buffer.len) && copy->coroutine_count <= MOST_RECORDS && copy->point_count <= MOST_RECORDS &&
           copy->request_count <= MOST_RECORDS;
}

/* --- adding up ------------------------------------------------------------------------------------- */

/* Returns memory for one more item, perhaps in another place; NULL if there is none. */
static void *
with_room(void *items, int count, int *room, size_t size)
{
    if (count < *room) {
        return items;
    }
    int wanted = *room ? 2 * *room : 64;
    void *found = realloc(items, (size_t)wanted * size);
    if (found != NULL) {
        *room = wanted;
    }
    return found;
}

static uint32_t
hash_of(const Bytes *labels)
{
    uint32_t hash = 2166136261u;
    for (int number = 0; number < LABELS; number++) {
        for (size_t byte = 0; byte < labels[number].length; byte++) {
            hash = (hash ^ (unsigned char)labels[number].start[byte]) * 16777619u;
        }
        hash = (hash ^ 0xFF) * 16777619u;
    }
    return hash;
}

static bool
rehash(RowTable *table)
{
    int count = table->slot_count ? 2 * table->slot_count : 256;
    int *slots = malloc((size_t)count * sizeof(int));
    if (slots == NULL) {
        return false;
    }
    memset(slots, -1, (size_t)count * sizeof(int));
    for (int number = 0; number < table->count; number++) {
        Row *row = &table->rows[number];
        int *slot = &slots[row->hash & (uint32_t)(count - 1)];
        row->next = *slot;
        *slot = number;
    }
    free(table->slots);
    table->slots = slots;
    table->slot_count = count;
    return true;
}

/* Which families have a row of the yield point. The specification is families.py. */
static unsigned
groups_of(const Bytes *labels)
{
    Bytes point = labels[1];
    bool eager_child = is_equal(point, bytes_of(EAGER_CHILD_NAME)), running = is_equal(point, bytes_of(RUNNING_NAME));
    bool last = is_equal(point, bytes_of(RETURN_NAME)) || is_equal(point, bytes_of(RAISE_NAME));
    bool callback = is_equal(labels[0], bytes_of(CALLBACK_NAME));
    unsigned groups = eager_child ? 0 : GROUP_BLOCKING;
    groups |= eager_child || running ? 0 : GROUP_ENDED;
    return groups | (running || last || (callback && !eager_child) ? 0 : GROUP_AWAITED);
}

static int
find_row(const RowTable *table, const Bytes *labels, uint32_t hash)
{
    for (int number = table->slot_count ? table->slots[hash & (uint32_t)(table->slot_count - 1)] : -1; number >= 0; number = table->rows[number].next) {
        const Row *row = &table->rows[number];
        if (row->hash == hash && is_equal(row->labels[0], labels[0]) && is_equal(row->labels[1], labels[1]) && is_equal(row->labels[2], labels[2])) {
            return number;
        }
    }
    return -1;
}

int
records_find_row(const RowTable *table, const Bytes *labels)
{
    return find_row(table, labels, hash_of(labels));
}

Row
records_empty_row(void)
{
    Row row = {.first = -1, .last = -1, .next = -1};
    memset(row.exemplars, -1, sizeof(row.exemplars));
    return row;
}

/* Returns the row with these labels, a new one if need be; NULL if there is no memory. */
static Row *
row_with(RowTable *table, const Bytes *labels, unsigned groups)
{
    uint32_t hash = hash_of(labels);
    int found = find_row(table, labels, hash);
    if (found >= 0) {
        return &table->rows[found];
    }
    Row *rows = with_room(table->rows, table->count, &table->room, sizeof(Row));
    if (rows == NULL) {
        return NULL;
    }
    table->rows = rows;
    if (table->count >= table->slot_count && !rehash(table)) {
        return NULL;
    }
    int *slot = &table->slots[hash & (uint32_t)(table->slot_count - 1)];
    Row *row = &rows[table->count];
    *row = records_empty_row();
    row->hash = hash;
    row->groups = groups;
    row->next = *slot;
    memcpy(row->labels, labels, sizeof(row->labels));
    *slot = table->count++;
    return row;
}

int
records_row(RowTable *table, const Bytes *labels)
{
    Row *row = row_with(table, labels, groups_of(labels));
    return row == NULL ? -1 : (int)(row - table->rows);
}

Outcome
records_add_part(Records *self, Row *row, Part part)
{
    if (row == NULL) {
        return NO_MEMORY;
    }
    if (part.weight > MOST_PARTS - row->count) {
        return DECLINED;
    }
    Part *parts = with_room(self->parts, self->part_count, &self->part_room, sizeof(Part));
    if (parts == NULL) {
        return NO_MEMORY;
    }
    self->parts = parts;
    part.next = -1;
    parts[self->part_count] = part;
    if (row->last >= 0) {
        parts[row->last].next = self->part_count;
    }
    else {
        row->first = self->part_count;
    }
    row->last = self->part_count++;
    row->count += part.weight;
    return ACCEPTED;
}

static Part
part_of(const Copy *copy, const int64_t *words, int weight)
{
    return (Part){.words = words, .weight = weight, .alive = copy->alive, .unix_offset_ns = copy->unix_offset_ns};
}

/* Tasks may be sampled, callbacks never are. */
static int
weight_of(const Copy *copy, Bytes coroutine)
{
    return is_equal(coroutine, bytes_of(CALLBACK_NAME)) ? 1 : copy->weight;
}

static bool
has_any(const int64_t *words, Py_ssize_t count)
{
    for (Py_ssize_t word = 0; word < count; word++) {
        if (words[word] != 0) {
            return true;
        }
    }
    return false;
}

static bool
was_reached(const Records *self, const Copy *copy, const int64_t *point)
{
    Py_ssize_t segments = self->shapes[0].pieces, waits = self->shapes[1].pieces;
    const int64_t *first = point + POINT_SCALARS + 1;
    return has_any(first, segments) || has_any(first + segments + 1, waits) || (copy->alive && point[POINT_SUSPENDED] != 0);
}

void
records_keep_newer(const Records *self, Row *row, int status, int exemplar)
{
    int *own = &row->exemplars[status];
    if (exemplar >= 0 && (*own < 0 || self->exemplar_ns[exemplar] > self->exemplar_ns[*own])) {
        *own = exemplar;
    }
}

static Outcome
add_points(Records *self, const Copy *copy)
{
    Outcome outcome = ACCEPTED;
    for (Py_ssize_t number = 0; number < copy->point_count && outcome == ACCEPTED; number++) {
        const int64_t *point = point_of(self, copy, number);
        if (!was_reached(self, copy, point)) {
            continue;
        }
        Bytes labels[LABELS] = {text_of(copy, coroutine_of(self, copy, point[POINT_COROUTINE])[COROUTINE_NAME]),
                                text_of(copy, point[POINT_YIELD_POINT]), text_of(copy, point[POINT_AWAITS])};
        Row *row = row_with(&self->tables[TABLE_YIELD_POINTS], labels, groups_of(labels));
        outcome = records_add_part(self, row, part_of(copy, point, weight_of(copy, labels[0])));
        if (row != NULL) {
            records_keep_newer(self, row, 0, copy->exemplars[number]);
        }
    }
    return outcome;
}

/* The blocking time that readers counted of the segment in progress, if not yet final. */
static int64_t
pending_ns(const Copy *copy)
{
    const int64_t *loop = copy->words + copy->loop;
    int64_t since = loop[LOOP_SEGMENT_SINCE_NS], seen = loop[LOOP_LOOKED_NS] - since;
    return since != 0 && seen >= copy->threshold_ns ? Py_MAX(0, seen - loop[LOOP_SEGMENT_COUNTED_NS]) : 0;
}

static Outcome
add_running(Records *self, const Copy *copy)
{
    Outcome outcome = ACCEPTED;
    int64_t pending = pending_ns(copy), current = copy->words[copy->loop + LOOP_SEGMENT_COROUTINE];
    for (Py_ssize_t number = 0; number < copy->coroutine_count && outcome == ACCEPTED; number++) {
        const int64_t *coroutine = coroutine_of(self, copy, number);
        int64_t more = number == current ? pending : 0;
        if (coroutine[COROUTINE_RUNNING_NS] > INT64_MAX - more) {
            return DECLINED;
        }
        int64_t running_ns = coroutine[COROUTINE_RUNNING_NS] + more;
        if (running_ns == 0) {
            continue;
        }
        Bytes labels[LABELS] = {text_of(copy, coroutine[COROUTINE_NAME]), bytes_of(RUNNING_NAME), bytes_of(RUNNING_NAME)};
        Part part = part_of(copy, NULL, weight_of(copy, labels[0]));
        part.running_ns = running_ns;
        outcome = records_add_part(self, row_with(&self->tables[TABLE_YIELD_POINTS], labels, groups_of(labels)), part);
    }
    return outcome;
}

static Outcome
add_coroutines(Records *self, const Copy *copy)
{
    Outcome outcome = ACCEPTED;
    for (Py_ssize_t number = 0; number < copy->coroutine_count && outcome == ACCEPTED; number++) {
        const int64_t *coroutine = coroutine_of(self, copy, number);
        if (coroutine[COROUTINE_CREATED] || coroutine[COROUTINE_LIVE] || coroutine[COROUTINE_DESTROYED_PENDING]) {
            Bytes labels[LABELS] = {text_of(copy, coroutine[COROUTINE_NAME])};
            labels[1] = labels[2] = bytes_of("");
            Row *row = row_with(&self->tables[TABLE_COROUTINES], labels, GROUP_ALL);
            outcome = records_add_part(self, row, part_of(copy, coroutine, copy->weight));
        }
    }
    return outcome;
}

static Outcome
add_held(Records *self, const Copy *copy)
{
    Outcome outcome = ACCEPTED;
    for (Py_ssize_t number = 0; number < MAX_HELD && outcome == ACCEPTED; number++) {
        const int64_t *held = held_of(copy, number);
        if (held[HELD_LENGTH] == 0) {
            continue;
        }
        int64_t coroutine = held[HELD_COROUTINE];
        Bytes labels[LABELS] = {coroutine == NO_COROUTINE ? bytes_of(ITSELF_NAME) : text_of(copy, coroutine_of(self, copy, coroutine)[COROUTINE_NAME]),
                                text_of_held(held), bytes_of("")};
        outcome = records_add_part(self, row_with(&self->tables[TABLE_HELD], labels, GROUP_ALL), part_of(copy, held, 1));
    }
    return outcome;
}

/* (other) exists even if nothing was added to it. */
static Outcome
add_request_waits(Records *self, const Copy *copy)
{
    Outcome outcome = ACCEPTED;
    for (Py_ssize_t number = 0; number < copy->wait_count && outcome == ACCEPTED; number++) {
        const int64_t *wait = request_wait_of(copy, number);
        if (number == 0 && wait[REQUEST_WAIT_WAIT_NS] == 0) {
            continue;
        }
        const int64_t *request = request_of(self, copy, (Py_ssize_t)wait[REQUEST_WAIT_REQUEST]);
        Bytes labels[LABELS] = {text_of(copy, request[REQUEST_NAME]), text_of(copy, wait[REQUEST_WAIT_AWAITS]), bytes_of("")};
        outcome = records_add_part(self, row_with(&self->tables[TABLE_REQUEST_WAITS], labels, GROUP_ALL), part_of(copy, wait, copy->weight));
    }
    return outcome;
}

/* Whether the type was ever used; (other) exists even if it was not. */
static bool
is_used(const Records *self, const Copy *copy, const int64_t *request)
{
    if (!is_equal(text_of(copy, request[REQUEST_NAME]), bytes_of(OTHER_NAME)) || request[REQUEST_BACKGROUND_NS] != 0 ||
        (copy->alive && request[REQUEST_IN_PROGRESS] != 0)) {
        return true;
    }
    Py_ssize_t pieces = self->shapes[1].pieces;
    for (int status = 0; status < STATUSES; status++) {
        if (has_any(request + REQUEST_SCALARS + status * (pieces + 1) + 1, pieces)) {
            return true;
        }
    }
    return false;
}

static Outcome
add_requests(Records *self, const Copy *copy)
{
    Outcome outcome = ACCEPTED;
    const int *exemplars = copy->exemplars + copy->point_count;
    for (Py_ssize_t number = 0; number < copy->request_count && outcome == ACCEPTED; number++, exemplars += STATUSES) {
        const int64_t *request = request_of(self, copy, number);
        if (!is_used(self, copy, request)) {
            continue;
        }
        Bytes labels[LABELS] = {text_of(copy, request[REQUEST_NAME])};
        labels[1] = labels[2] = bytes_of("");
        Row *row = row_with(&self->tables[TABLE_REQUESTS], labels, GROUP_ALL);
        outcome = records_add_part(self, row, part_of(copy, request, copy->weight));
        if (outcome == ACCEPTED) {
            row->groups |= request[REQUEST_OBJECTIVE_NS] ? GROUP_OBJECTIVE : 0;
            for (int status = 0; status < STATUSES; status++) {
                records_keep_newer(self, row, status, exemplars[status]);
            }
        }
    }
    return outcome;
}

static Outcome
add_copy(Records *self, const Copy *copy)
{
    if (!is_laid_out(self, copy) || !is_sound(self, copy)) {
        return DECLINED;
    }
    Outcome (*const adders[])(Records *, const Copy *) = {add_points, add_running, add_coroutines, add_held, add_requests, add_request_waits};
    Outcome outcome = ACCEPTED;
    for (size_t number = 0; number < Py_ARRAY_LENGTH(adders) && outcome == ACCEPTED; number++) {
        outcome = adders[number](self, copy);
    }
    return outcome;
}

/* --- for Python ------------------------------------------------------------------------------------ */

static Py_ssize_t
limited(Py_ssize_t count)
{
    return Py_MIN(Py_MAX(count, 0), MOST_RECORDS);
}

/* Returns the place of an exemplar among those of a copy; -1 if it is of no record. */
static Py_ssize_t
place_of_exemplar(const Copy *copy, int kind, Py_ssize_t number)
{
    Py_ssize_t points = limited(copy->point_count);
    if (kind == EXEMPLAR_SEGMENT) {
        return number >= 0 && number < points ? number : -1;
    }
    bool known = kind >= EXEMPLAR_WALL && kind < EXEMPLAR_WALL + STATUSES && number >= 0 && number < limited(copy->request_count);
    return known ? points + number * STATUSES + kind - EXEMPLAR_WALL : -1;
}

/* Reads the exemplars of a copy: kind, number of the record, and when each was. 0, or -1 with an
   exception. */
static int
read_exemplars(Records *self, Copy *copy, PyObject *exemplars)
{
    Py_ssize_t count = PyList_GET_SIZE(exemplars);
    size_t size = (size_t)(limited(copy->point_count) + STATUSES * limited(copy->request_count) + 1) * sizeof(int);
    copy->exemplars = malloc(size);
    int64_t *when = realloc(self->exemplar_ns, (size_t)(self->exemplar_count + count + 1) * sizeof(int64_t));
    if (when != NULL) {
        self->exemplar_ns = when;
    }
    if (copy->exemplars == NULL || when == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(copy->exemplars, -1, size);
    for (Py_ssize_t number = 0; number < count; number++) {
        int kind;
        Py_ssize_t record;
        long long unix_ns;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(exemplars, number), "inL", &kind, &record, &unix_ns)) {
            return -1;
        }
        Py_ssize_t place = place_of_exemplar(copy, kind, record);
        if (place >= 0) {
            copy->exemplars[place] = self->exemplar_count;
        }
        self->exemplar_ns[self->exemplar_count++] = unix_ns;
    }
    return 0;
}

static int
read_copy(Records *self, Copy *copy, PyObject *args)
{
    PyObject *exemplars;
    Py_ssize_t strings;
    long long weight, threshold_ns, offset_ns;
    if (!PyArg_ParseTuple(args, "y*(nnnnnnnnnnnnnnnn)LLpLO!:add", &copy->buffer, &copy->loop, &copy->coroutines, &copy->coroutine_count, &copy->points,
                          &copy->point_count, &copy->nodes, &copy->node_count, &copy->paths, &copy->path_count, &copy->held, &copy->requests,
                          &copy->request_count, &copy->waits, &copy->wait_count, &strings, &copy->strings_used, &weight, &threshold_ns, &copy->alive,
                          &offset_ns, &PyList_Type, &exemplars)) {
        return -1;
    }
    copy->words = copy->buffer.buf;
    copy->strings = (const char *)copy->buffer.buf + Py_MIN(Py_MAX(strings, 0), copy->buffer.len / WORD_BYTES) * WORD_BYTES;
    copy->threshold_ns = threshold_ns;
    copy->unix_offset_ns = offset_ns;
    copy->weight = (int)Py_MIN(Py_MAX(weight, 0), MOST_PARTS + 1);
    if (read_exemplars(self, copy, exemplars) < 0) {
        free(copy->exemplars);
        PyBuffer_Release(&copy->buffer);
        return -1;
    }
    return 0;
}

static PyObject *
records_add(PyObject *object, PyObject *args)
{
    Records *self = (Records *)object;
    Copy *copies = realloc(self->copies, (size_t)(self->copy_count + 1) * sizeof(Copy));
    if (copies == NULL) {
        return PyErr_NoMemory();
    }
    self->copies = copies;
    Copy *copy = &copies[self->copy_count];
    *copy = (Copy){.alive = 0};
    if (read_copy(self, copy, args) < 0) {
        return NULL;
    }
    self->copy_count++;
    PyThreadState *state = handover_leave();
    Outcome outcome = add_copy(self, copy);
    handover_return(state);
    return outcome == NO_MEMORY ? PyErr_NoMemory() : PyBool_FromLong(outcome == ACCEPTED);
}

/* Reads by piece the bucket that it belongs to, of which there are `most`. */
static int
read_map(Py_buffer map, uint8_t *bucket_of, int most)
{
    const uint8_t *buckets = map.buf;
    for (Py_ssize_t piece = 0; piece < map.len; piece++) {
        if (buckets[piece] >= most) {
            PyErr_Format(PyExc_ValueError, "a piece belongs to bucket %d of %d", buckets[piece], most);
            return -1;
        }
        bucket_of[piece] = buckets[piece];
    }
    return 0;
}

static int
read_shape(Shape *shape, Py_buffer classic, Py_buffer native)
{
    if (classic.len < 1 || classic.len > MAX_PIECES || (native.len != 0 && native.len != classic.len)) {
        PyErr_Format(PyExc_ValueError, "a histogram has 1 to %d pieces, not %zd and %zd", MAX_PIECES, classic.len, native.len);
        return -1;
    }
    shape->pieces = classic.len;
    shape->native = native.len != 0;
    if (read_map(classic, shape->classic_of, MAX_BOUNDS + 1) < 0 || read_map(native, shape->native_of, NATIVE_BUCKETS) < 0) {
        return -1;
    }
    shape->buckets = shape->classic_of[shape->pieces - 1] + 1;
    return 0;
}

static PyObject *
records_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Py_buffer maps[4];
    if (!PyArg_ParseTuple(args, "(y*y*)(y*y*):Records", &maps[0], &maps[1], &maps[2], &maps[3])) {
        return NULL;
    }
    Records *self = (Records *)type->tp_alloc(type, 0);
    if (self != NULL && (read_shape(&self->shapes[0], maps[0], maps[1]) < 0 || read_shape(&self->shapes[1], maps[2], maps[3]) < 0)) {
        Py_CLEAR(self);
    }
    for (int map = 0; map < 4; map++) {
        PyBuffer_Release(&maps[map]);
    }
    if (self != NULL) {
        Py_ssize_t segment_words = self->shapes[0].pieces + 1, wait_words = self->shapes[1].pieces + 1;
        self->coroutine_words = COROUTINE_SCALARS + 2 * STATUSES * wait_words;
        self->point_words = POINT_SCALARS + segment_words + wait_words;
        self->request_words = REQUEST_SCALARS + (STATUSES + 1) * wait_words;
    }
    return (PyObject *)self;
}

/* Gives the memory of the copies back to the system, which would else be done by their end, with the
   GIL. Nothing in them can be read any more. */
static PyObject *
records_release(PyObject *object, PyObject *Py_UNUSED(ignored))
{
    const Records *self = (const Records *)object;
    PyThreadState *state = handover_leave();
    for (int number = 0; number < self->copy_count; number++) {
        copying_release(&self->copies[number].buffer);
    }
    handover_return(state);
    Py_RETURN_NONE;
}

static void
records_dealloc(PyObject *object)
{
    Records *self = (Records *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (int number = 0; number < self->copy_count; number++) {
        PyBuffer_Release(&self->copies[number].buffer);
        free(self->copies[number].exemplars);
    }
    for (int number = 0; number < TABLES; number++) {
        free(self->tables[number].rows);
        free(self->tables[number].slots);
    }
    free(self->copies);
    free(self->parts);
    free(self->exemplar_ns);
    free(self->befores);
    Py_XDECREF(self->shown);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef records_methods[] = {
    {"add", records_add, METH_VARARGS, "Add the records of a copy of a page; False if they are for Python to read."},
    {"release", records_release, METH_NOARGS, "Give back the memory of the copies; nothing can be read any more."},
    {"fold", records_fold, METH_VARARGS, "Sum up yield points; None if Python has to read the pages."},
    {"text", records_text, METH_VARARGS, "Return families as text, and how many samples they have."},
    {"protobuf", records_protobuf, METH_VARARGS, "Return families as protobuf, and how many samples they have."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot records_slots[] = {
    {Py_tp_doc, "The records of several pages of which there can be many."},
    {Py_tp_new, records_new},
    {Py_tp_dealloc, records_dealloc},
    {Py_tp_methods, records_methods},
    {0, NULL},
};

static PyType_Spec records_spec = {
    .name = "aiometrics.recorder._core.Records",
    .basicsize = sizeof(Records),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = records_slots,
};

int
records_init_module(PyObject *module)
{
    records_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &records_spec, NULL);
    return records_type == NULL ? -1 : PyModule_AddType(module, records_type);
}
