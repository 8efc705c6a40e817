/* Writes records as Prometheus reads them, without the GIL. The specification is
   aiometrics/exposition/text.py and protobuf.py, which also say in compiled.py what is written. */
#include "handover.h"
#include "records.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SQUARE_SCALE 18
#define SECOND_SCALE 9

/* The text of a line before and after its labels. */
typedef struct {
    Bytes before, after;
} Line;

/* The rows that each record has in a family: one, or one for each status. */
typedef struct {
    Py_ssize_t word; /* of the record, where its number begins */
    Bytes labels;    /* protobuf: further labels */
    Bytes text;      /* text: its lines, each of which ends with a newline */
    Line *lines;     /* these, which are found without the GIL */
} Variant;

typedef struct {
    Bytes head;
    int table, number, type;
    unsigned group;
    int exemplars; /* whether its rows may have one */
    int variant_count;
    Variant variants[STATUSES];
} Family;

typedef struct {
    int bucket;
    Bytes content;
} WrittenExemplar;

typedef struct {
    char *start;
    size_t length, room;
    bool failed;
} Buffer;

typedef struct {
    const Records *records;
    Family *families;
    int family_count;
    Line *lines; /* of all families */
    bool odd;    /* whether one of them has other lines than it needs */
    Bytes names[TABLES][LABELS];
    int label_count[TABLES];
    WrittenExemplar *exemplars;
    int exemplar_count;
    Bytes bucket_ends[2]; /* protobuf: the bounds of segments and waits, as fields */
    Bytes zero_bucket;
    Buffer labels[TABLES];      /* of all rows */
    size_t *label_ends[TABLES]; /* by row */
    Buffer out, content, row, value, part;
    int64_t samples;
} Writer;

/* --- buffers --------------------------------------------------------------------------------------- */

static char *
reserve(Buffer *buffer, size_t length)
{
    if (buffer->room - buffer->length < length) {
        size_t room = Py_MAX(2 * buffer->room, buffer->length + length + 4096);
        char *start = realloc(buffer->start, room);
        if (start == NULL) {
            buffer->failed = true;
            return NULL;
        }
        buffer->start = start;
        buffer->room = room;
    }
    return buffer->start + buffer->length;
}

static void
put(Buffer *buffer, Bytes bytes)
{
    char *end = reserve(buffer, bytes.length);
    if (end != NULL && bytes.length) {
        memcpy(end, bytes.start, bytes.length);
        buffer->length += bytes.length;
    }
}

static void
put_byte(Buffer *buffer, char byte)
{
    put(buffer, (Bytes){&byte, 1});
}

static void
put_number(Buffer *buffer, Number number)
{
    char *end = reserve(buffer, DECIMAL_BYTES);
    if (end != NULL) {
        buffer->length += number.scale ? decimal_write(end, number.value, number.scale) : decimal_write_integer(end, number.value);
    }
}

static Bytes
content_of(const Buffer *buffer)
{
    return (Bytes){buffer->start, buffer->length};
}

/* --- numbers --------------------------------------------------------------------------------------- */

static int64_t
word_of(const Part *part, Py_ssize_t word)
{
    if (part->words != NULL) {
        return part->words[word];
    }
    return word == POINT_BLOCKING_NS ? part->running_ns : 0;
}

static Wide
square_of(const Part *part, Py_ssize_t word)
{
    return (Wide)(uint64_t)word_of(part, word) * SQUARE_NS2 + (Wide)(uint64_t)word_of(part, word + 1);
}

/* The earliest time that is known, or what was found before. */
static Wide
earlier(const Part *part, Py_ssize_t word, Wide found)
{
    int64_t oldest = word_of(part, word);
    if (oldest == 0 || !part->alive) {
        return found;
    }
    Wide unix_ns = (Wide)(uint64_t)(oldest + part->unix_offset_ns);
    return found == 0 || unix_ns < found ? unix_ns : found;
}

Number
records_number(const Records *self, const Row *row, int kind, Py_ssize_t word)
{
    Wide found = 0;
    for (int number = row->first; number >= 0; number = self->parts[number].next) {
        const Part *part = &self->parts[number];
        Wide weight = (Wide)part->weight;
        switch (kind) {
        case NUMBER_REQUESTS:
            found += part->alive ? (Wide)(uint64_t)word_of(part, word) : 0;
            break;
        case NUMBER_VIOLATIONS:
            found += (Wide)(uint64_t)word_of(part, word) + (Wide)(uint64_t)word_of(part, word + 1);
            break;
        case NUMBER_MOMENTARY:
            found += part->alive ? (Wide)(uint64_t)word_of(part, word) * weight : 0;
            break;
        case NUMBER_LONGEST_SECONDS:
            found = Py_MAX(found, (Wide)(uint64_t)word_of(part, word));
            break;
        case NUMBER_OLDEST_SECONDS:
            found = earlier(part, word, found);
            break;
        case NUMBER_SQUARE_SECONDS:
            found += square_of(part, word) * weight;
            break;
        default:
            found += (Wide)(uint64_t)word_of(part, word) * weight;
        }
    }
    bool whole = kind == NUMBER_COUNT || kind == NUMBER_MOMENTARY || kind == NUMBER_REQUESTS || kind == NUMBER_VIOLATIONS;
    return (Number){found, whole ? 0 : kind == NUMBER_SQUARE_SECONDS ? SQUARE_SCALE : SECOND_SCALE};
}

void
records_add_up(const Records *self, const Row *row, int kind, Py_ssize_t word, Sums *sums)
{
    const Shape *shape = shape_of(self, kind);
    bool of_requests = kind == NUMBER_REQUEST_WALL || kind == NUMBER_REQUEST_ACTIVE;
    memset(sums, 0, sizeof(*sums));
    for (int number = row->first; number >= 0; number = self->parts[number].next) {
        const Part *part = &self->parts[number];
        if (part->words == NULL) {
            continue;
        }
        const int64_t *counts = part->words + word + 1;
        Wide weight = of_requests ? 1 : (Wide)part->weight;
        sums->sum_ns += (Wide)(uint64_t)counts[-1] * (kind == NUMBER_REQUEST_ACTIVE ? (Wide)part->weight : weight);
        for (Py_ssize_t piece = 0; piece < shape->pieces; piece++) {
            if (counts[piece] != 0) {
                Wide count = (Wide)(uint64_t)counts[piece] * weight;
                sums->classic[shape->classic_of[piece]] += count;
                sums->native[shape->native_of[piece]] += count;
            }
        }
    }
}

static const WrittenExemplar *
exemplar_of(const Writer *writer, const Family *family, const Variant *variant, const Row *row)
{
    int exemplar = row->exemplars[variant - family->variants];
    return family->exemplars && exemplar >= 0 && exemplar < writer->exemplar_count ? &writer->exemplars[exemplar] : NULL;
}

/* --- text ------------------------------------------------------------------------------------------ */

static void
put_escaped(Buffer *buffer, Bytes text)
{
    for (size_t number = 0; number < text.length; number++) {
        char byte = text.start[number];
        if (byte == '\\' || byte == '"' || byte == '\n') {
            put_byte(buffer, '\\');
        }
        put_byte(buffer, byte == '\n' ? 'n' : byte);
    }
}

static void
write_text_labels(Writer *writer, int table, const Row *row)
{
    Buffer *labels = &writer->labels[table];
    for (int number = 0; number < writer->label_count[table]; number++) {
        put(labels, writer->names[table][number]);
        put_escaped(labels, row->labels[number]);
    }
    put_byte(labels, '"');
}

static void
write_line(Writer *writer, const Line *line, Bytes labels, Number number, const WrittenExemplar *exemplar)
{
    Buffer *out = &writer->out;
    put(out, line->before);
    put(out, labels);
    put(out, line->after);
    put_number(out, number);
    if (exemplar != NULL) {
        put(out, exemplar->content);
    }
    put_byte(out, '\n');
}

static void
write_text_row(Writer *writer, const Family *family, const Variant *variant, Bytes labels, const Row *row)
{
    const WrittenExemplar *exemplar = exemplar_of(writer, family, variant, row);
    const Line *line = variant->lines;
    if (!is_histogram(family->number)) {
        write_line(writer, line, labels, records_number(writer->records, row, family->number, variant->word), exemplar);
        return;
    }
    const Shape *shape = shape_of(writer->records, family->number);
    Sums sums;
    records_add_up(writer->records, row, family->number, variant->word, &sums);
    Wide count = 0;
    for (int bucket = 0; bucket < shape->buckets; bucket++) {
        count += sums.classic[bucket];
        write_line(writer, line++, labels, (Number){count, 0}, exemplar != NULL && exemplar->bucket == bucket ? exemplar : NULL);
    }
    write_line(writer, line++, labels, (Number){count, 0}, NULL);
    write_line(writer, line, labels, (Number){sums.sum_ns, SECOND_SCALE}, NULL);
}

static void
begin_text(Writer *writer, const Family *family)
{
    put(&writer->out, family->head);
}

static void
end_text(Writer *Py_UNUSED(writer), const Family *Py_UNUSED(family))
{
}

/* --- protobuf -------------------------------------------------------------------------------------- */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2 };

static void
put_varint(Buffer *buffer, uint64_t number)
{
    for (; number > 0x7F; number >>= 7) {
        put_byte(buffer, (char)((number & 0x7F) | 0x80));
    }
    put_byte(buffer, (char)number);
}

static void
put_integer(Buffer *buffer, unsigned field, uint64_t number)
{
    put_varint(buffer, field << 3 | VARINT);
    put_varint(buffer, number);
}

/* Small negative numbers are short, too. */
static uint64_t
zigzag(Wide more, Wide less)
{
    return more >= less ? (uint64_t)(more - less) << 1 : ((uint64_t)(less - more) << 1) - 1;
}

static void
put_double(Buffer *buffer, unsigned field, Number number)
{
    double value = decimal_float(number.value, number.scale);
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    put_varint(buffer, field << 3 | FIXED64);
    for (int byte = 0; byte < 8; byte++) {
        put_byte(buffer, (char)(bits >> (8 * byte)));
    }
}

static void
put_field(Buffer *buffer, unsigned field, Bytes content)
{
    put_varint(buffer, field << 3 | BYTES);
    put_varint(buffer, content.length);
    put(buffer, content);
}

static void
write_protobuf_labels(Writer *writer, int table, const Row *row)
{
    for (int number = 0; number < writer->label_count[table]; number++) {
        writer->part.length = 0;
        put(&writer->part, writer->names[table][number]);
        put_field(&writer->part, 2, row->labels[number]);
        put_field(&writer->labels[table], 1, content_of(&writer->part));
    }
}

static void
put_classic(Writer *writer, const Family *family, const Sums *sums, const WrittenExemplar *exemplar)
{
    const Shape *shape = shape_of(writer->records, family->number);
    Bytes ends = writer->bucket_ends[family->number != NUMBER_SEGMENTS];
    size_t end_length = ends.length / (size_t)shape->buckets;
    Wide count = 0;
    for (int bucket = 0; bucket < shape->buckets; bucket++) {
        count += sums->classic[bucket];
        writer->part.length = 0;
        put_integer(&writer->part, 1, (uint64_t)count);
        put(&writer->part, (Bytes){ends.start + (size_t)bucket * end_length, end_length});
        if (exemplar != NULL && exemplar->bucket == bucket) {
            put_field(&writer->part, 3, exemplar->content);
        }
        put_field(&writer->value, 3, content_of(&writer->part));
    }
}

/* Writes the spans of consecutive buckets that are not empty; the zero bucket is none of them. */
static void
put_spans(Writer *writer, const Sums *sums)
{
    int next = NATIVE_ORIGIN;
    for (int first = 1; first < NATIVE_BUCKETS; first++) {
        int end = first;
        while (end < NATIVE_BUCKETS && sums->native[end] != 0) {
            end++;
        }
        if (end > first) {
            writer->part.length = 0;
            put_integer(&writer->part, 1, zigzag((Wide)first, (Wide)next));
            put_integer(&writer->part, 2, (uint64_t)(end - first));
            put_field(&writer->value, 12, content_of(&writer->part));
            first = next = end;
        }
    }
}

/* Writes the difference of each count from that of the bucket before. */
static void
put_deltas(Writer *writer, const Sums *sums)
{
    Wide before = 0;
    writer->part.length = 0;
    for (int bucket = 1; bucket < NATIVE_BUCKETS; bucket++) {
        if (sums->native[bucket] != 0) {
            put_varint(&writer->part, zigzag(sums->native[bucket], before));
            before = sums->native[bucket];
        }
    }
    if (writer->part.length) {
        put_field(&writer->value, 13, content_of(&writer->part));
    }
}

static void
put_histogram(Writer *writer, const Family *family, const Row *row, Py_ssize_t word, const WrittenExemplar *exemplar)
{
    const Shape *shape = shape_of(writer->records, family->number);
    Sums sums;
    records_add_up(writer->records, row, family->number, word, &sums);
    Wide count = 0;
    for (int bucket = 0; bucket < shape->buckets; bucket++) {
        count += sums.classic[bucket];
    }
    put_integer(&writer->value, 1, (uint64_t)count);
    put_double(&writer->value, 2, (Number){sums.sum_ns, SECOND_SCALE});
    put_classic(writer, family, &sums, exemplar);
    if (!shape->native) {
        return;
    }
    put(&writer->value, writer->zero_bucket);
    put_integer(&writer->value, 7, (uint64_t)sums.native[0]);
    put_spans(writer, &sums);
    put_deltas(writer, &sums);
    if (exemplar != NULL && exemplar->content.length) {
        put_field(&writer->value, 16, exemplar->content);
    }
}

static void
write_protobuf_row(Writer *writer, const Family *family, const Variant *variant, Bytes labels, const Row *row)
{
    const WrittenExemplar *exemplar = exemplar_of(writer, family, variant, row);
    writer->row.length = writer->value.length = 0;
    if (is_histogram(family->number)) {
        put_histogram(writer, family, row, variant->word, exemplar);
    }
    else {
        put_double(&writer->value, 1, records_number(writer->records, row, family->number, variant->word));
        if (exemplar != NULL && exemplar->content.length) {
            put_field(&writer->value, 2, exemplar->content);
        }
    }
    put(&writer->row, labels);
    put(&writer->row, variant->labels);
    put_field(&writer->row, (unsigned)family->type, content_of(&writer->value));
    put_field(&writer->content, 4, content_of(&writer->row));
}

static void
begin_protobuf(Writer *writer, const Family *Py_UNUSED(family))
{
    writer->content.length = 0;
}

static void
end_protobuf(Writer *writer, const Family *family)
{
    if (writer->content.length) {
        put_varint(&writer->out, family->head.length + writer->content.length);
        put(&writer->out, family->head);
        put(&writer->out, content_of(&writer->content));
    }
}

/* --- both ------------------------------------------------------------------------------------------ */

typedef struct {
    void (*labels)(Writer *writer, int table, const Row *row);
    void (*begin)(Writer *writer, const Family *family);
    void (*row)(Writer *writer, const Family *family, const Variant *variant, Bytes labels, const Row *row);
    void (*end)(Writer *writer, const Family *family);
} Format;

static const Format text = {write_text_labels, begin_text, write_text_row, end_text};
static const Format protobuf = {write_protobuf_labels, begin_protobuf, write_protobuf_row, end_protobuf};

static bool
write_labels(Writer *writer, const Format *format)
{
    for (int table = 0; table < TABLES; table++) {
        const RowTable *rows = &writer->records->tables[table];
        size_t *ends = writer->label_ends[table] = calloc((size_t)rows->count + 1, sizeof(size_t));
        if (ends == NULL) {
            return false;
        }
        for (int number = 0; number < rows->count; number++) {
            format->labels(writer, table, &rows->rows[number]);
            ends[number + 1] = writer->labels[table].length;
        }
        if (writer->labels[table].failed) {
            return false;
        }
    }
    return true;
}

static int
lines_of(const Writer *writer, const Family *family)
{
    return is_histogram(family->number) ? (int)shape_of(writer->records, family->number)->buckets + 2 : 1;
}

static void
write_family(Writer *writer, const Format *format, const Family *family)
{
    const RowTable *rows = &writer->records->tables[family->table];
    const size_t *ends = writer->label_ends[family->table];
    format->begin(writer, family);
    for (int number = 0; number < rows->count; number++) {
        const Row *row = &rows->rows[number];
        if (!(row->groups & family->group)) {
            continue;
        }
        Bytes labels = {writer->labels[family->table].start + ends[number], ends[number + 1] - ends[number]};
        for (int variant = 0; variant < family->variant_count; variant++) {
            format->row(writer, family, &family->variants[variant], labels, row);
            writer->samples += lines_of(writer, family);
        }
    }
    format->end(writer, family);
}

/* Finds the lines of a row; the first NUL in each is for its labels. */
static bool
find_lines(Variant *variant, int count)
{
    const char *start = variant->text.start, *end = start + variant->text.length;
    int found = 0;
    for (; start != end; found++) {
        const char *after = memchr(start, '\n', (size_t)(end - start));
        const char *labels = after == NULL ? NULL : memchr(start, '\0', (size_t)(after - start));
        if (labels == NULL || found == count) {
            return false;
        }
        variant->lines[found] = (Line){{start, (size_t)(labels - start)}, {labels + 1, (size_t)(after - labels - 1)}};
        start = after + 1;
    }
    return found == count;
}

/* Finds the lines of all families. */
static bool
find_all_lines(Writer *writer)
{
    size_t count = 1;
    for (int number = 0; number < writer->family_count; number++) {
        count += (size_t)(writer->families[number].variant_count * lines_of(writer, &writer->families[number]));
    }
    Line *next = writer->lines = malloc(count * sizeof(Line));
    if (next == NULL) {
        return false;
    }
    for (int number = 0; number < writer->family_count && !writer->odd; number++) {
        Family *family = &writer->families[number];
        for (int variant = 0; variant < family->variant_count; variant++) {
            family->variants[variant].lines = next;
            next += lines_of(writer, family);
            writer->odd = writer->odd || !find_lines(&family->variants[variant], lines_of(writer, family));
        }
    }
    return !writer->odd;
}

static bool
write_all(Writer *writer, const Format *format)
{
    if ((format == &text && !find_all_lines(writer)) || !write_labels(writer, format)) {
        return false;
    }
    for (int number = 0; number < writer->family_count; number++) {
        write_family(writer, format, &writer->families[number]);
    }
    return !(writer->out.failed || writer->content.failed || writer->row.failed || writer->value.failed || writer->part.failed);
}

/* --- for Python ------------------------------------------------------------------------------------ */

/* The number of items of a tuple, at most `most`; -1 with an exception. */
static int
count_of(PyObject *items, Py_ssize_t most)
{
    if (!PyTuple_Check(items) || PyTuple_GET_SIZE(items) > most) {
        PyErr_Format(PyExc_ValueError, "a tuple of at most %zd items is needed", most);
        return -1;
    }
    return (int)PyTuple_GET_SIZE(items);
}

static int
read_variant(PyObject *given, Variant *variant)
{
    PyObject *labels, *lines;
    if (!PyArg_ParseTuple(given, "nSS", &variant->word, &labels, &lines) || read_bytes(labels, &variant->labels) < 0) {
        return -1;
    }
    return read_bytes(lines, &variant->text);
}

static Py_ssize_t
words_of(const Records *records, int table)
{
    const Py_ssize_t words[TABLES] = {
        [TABLE_YIELD_POINTS] = records->point_words,
        [TABLE_COROUTINES] = records->coroutine_words,
        [TABLE_HELD] = HELD_SCALARS,
        [TABLE_REQUEST_WAITS] = REQUEST_WAIT_SCALARS,
        [TABLE_REQUESTS] = records->request_words,
    };
    return words[table];
}

/* Whether the record has such a number there. */
static int
check_variant(const Writer *writer, const Family *family, const Variant *variant)
{
    const Records *records = writer->records;
    Py_ssize_t words = family->number == NUMBER_SQUARE_SECONDS || family->number == NUMBER_VIOLATIONS ? 2 : 1;
    if (is_histogram(family->number)) {
        words = shape_of(records, family->number)->pieces + 1;
    }
    if (variant->word >= 0 && variant->word <= words_of(records, family->table) - words) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "no record has a number at %zd", variant->word);
    return -1;
}

static int
read_family(const Writer *writer, PyObject *given, Family *family)
{
    PyObject *head, *variants;
    int group;
    if (!PyArg_ParseTuple(given, "SiiiipO", &head, &family->table, &group, &family->number, &family->type, &family->exemplars, &variants) ||
        read_bytes(head, &family->head) < 0) {
        return -1;
    }
    if (family->table < 0 || family->table >= TABLES) {
        PyErr_Format(PyExc_ValueError, "there is no table %d", family->table);
        return -1;
    }
    family->group = (unsigned)group;
    family->variant_count = count_of(variants, STATUSES);
    for (int number = 0; number < family->variant_count; number++) {
        Variant *variant = &family->variants[number];
        if (read_variant(PyTuple_GET_ITEM(variants, number), variant) < 0 || check_variant(writer, family, variant) < 0) {
            return -1;
        }
    }
    return family->variant_count < 0 ? -1 : 0;
}

static int
read_families(Writer *writer, PyObject *families)
{
    int count = count_of(families, 64);
    if (count < 0) {
        return -1;
    }
    writer->families = calloc((size_t)count + 1, sizeof(Family));
    if (writer->families == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (writer->family_count = 0; writer->family_count < count; writer->family_count++) {
        if (read_family(writer, PyTuple_GET_ITEM(families, writer->family_count), &writer->families[writer->family_count]) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Reads for each table what precedes the labels of its rows. */
static int
read_names(Writer *writer, PyObject *names)
{
    if (count_of(names, TABLES) != TABLES) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "each table needs the names of its labels");
        }
        return -1;
    }
    for (int table = 0; table < TABLES; table++) {
        PyObject *labels = PyTuple_GET_ITEM(names, table);
        writer->label_count[table] = count_of(labels, LABELS);
        for (int number = 0; number < writer->label_count[table]; number++) {
            if (read_bytes(PyTuple_GET_ITEM(labels, number), &writer->names[table][number]) < 0) {
                return -1;
            }
        }
        if (writer->label_count[table] < 0) {
            return -1;
        }
    }
    return 0;
}

static int
read_exemplars(Writer *writer, PyObject *exemplars)
{
    int count = count_of(exemplars, PY_SSIZE_T_MAX);
    if (count < 0) {
        return -1;
    }
    writer->exemplars = calloc((size_t)count + 1, sizeof(WrittenExemplar));
    if (writer->exemplars == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (writer->exemplar_count = 0; writer->exemplar_count < count; writer->exemplar_count++) {
        PyObject *content;
        WrittenExemplar *exemplar = &writer->exemplars[writer->exemplar_count];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(exemplars, writer->exemplar_count), "iS", &exemplar->bucket, &content) ||
            read_bytes(content, &exemplar->content) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Returns a bytes object of the text, which is copied without the GIL: until it is written to, its
   memory costs nothing. */
static PyObject *
bytes_of_text(const Buffer *buffer)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)buffer->length);
    if (bytes == NULL || buffer->length == 0) {
        return bytes;
    }
    char *start = PyBytes_AS_STRING(bytes);
    PyThreadState *state = handover_leave();
    memcpy(start, buffer->start, buffer->length);
    handover_return(state);
    return bytes;
}

static PyObject *
write_for_python(Writer *writer, const Format *format)
{
    PyThreadState *state = handover_leave();
    bool written = write_all(writer, format);
    handover_return(state);
    if (writer->odd) {
        PyErr_SetString(PyExc_ValueError, "a row needs a line for each of its numbers, each with a place for its labels");
        return NULL;
    }
    if (!written) {
        return PyErr_NoMemory();
    }
    PyObject *bytes = bytes_of_text(&writer->out);
    return bytes == NULL ? NULL : Py_BuildValue("NL", bytes, (long long)writer->samples);
}

static void
free_writer(Writer *writer)
{
    Buffer *buffers[] = {&writer->out, &writer->content, &writer->row, &writer->value, &writer->part};
    for (size_t number = 0; number < Py_ARRAY_LENGTH(buffers); number++) {
        free(buffers[number]->start);
    }
    for (int table = 0; table < TABLES; table++) {
        free(writer->labels[table].start);
        free(writer->label_ends[table]);
    }
    free(writer->families);
    free(writer->lines);
    free(writer->exemplars);
}

PyObject *
records_text(PyObject *self, PyObject *args)
{
    PyObject *families, *names, *exemplars, *found = NULL;
    if (!PyArg_ParseTuple(args, "OOO:text", &families, &names, &exemplars)) {
        return NULL;
    }
    Writer writer = {.records = (const Records *)self};
    if (read_families(&writer, families) == 0 && read_names(&writer, names) == 0 && read_exemplars(&writer, exemplars) == 0) {
        found = write_for_python(&writer, &text);
    }
    free_writer(&writer);
    return found;
}

/* Reads the bounds of buckets as fields, which have the same length. */
static int
read_ends(Writer *writer, PyObject *segments, PyObject *waits, PyObject *zero_bucket)
{
    if (read_bytes(segments, &writer->bucket_ends[0]) < 0 || read_bytes(waits, &writer->bucket_ends[1]) < 0 ||
        read_bytes(zero_bucket, &writer->zero_bucket) < 0) {
        return -1;
    }
    for (int shape = 0; shape < 2; shape++) {
        if (writer->bucket_ends[shape].length % (size_t)writer->records->shapes[shape].buckets) {
            PyErr_SetString(PyExc_ValueError, "each bucket needs its bound");
            return -1;
        }
    }
    return 0;
}

PyObject *
records_protobuf(PyObject *self, PyObject *args)
{
    PyObject *families, *names, *exemplars, *segments, *waits, *zero_bucket, *found = NULL;
    if (!PyArg_ParseTuple(args, "OOOSSS:protobuf", &families, &names, &exemplars, &segments, &waits, &zero_bucket)) {
        return NULL;
    }
    Writer writer = {.records = (const Records *)self};
    if (read_families(&writer, families) == 0 && read_names(&writer, names) == 0 && read_exemplars(&writer, exemplars) == 0 &&
        read_ends(&writer, segments, waits, zero_bucket) == 0) {
        found = write_for_python(&writer, &protobuf);
    }
    free_writer(&writer);
    return found;
}
