/* Keeps the rows of some yield points, and adds the others up by coroutine, without the GIL. The
   specification is aiometrics/exposition/detail.py, which also says why. */
#define PY_SSIZE_T_CLEAN /* up to 3.12 */
#include "handover.h"
#include "records.h"

#include <stdlib.h>

typedef struct {
    Bytes labels[LABELS];
    const int64_t *before; /* what it had counted before it was shown; NULL: nothing */
} Shown;

typedef struct {
    Wide active_ns;
    int row;
} Ranked;

typedef struct {
    Records *records;
    int row_count; /* before any is added */
    int count, most;
    Shown *shown; /* those that Python knows */
    int shown_count;
    Bytes *summed;
    int summed_count;
    Ranked *ranked;
    int ranked_count;
    int *chosen; /* the rows that are shown for the first time */
    int chosen_count;
    const int64_t **befores; /* by row, as above */
    bool *is_shown;          /* by row */
    bool *is_summed;         /* by row: whether others of its coroutine are in a row from now on */
} Detail;

static RowTable *
points_of(const Detail *detail)
{
    return &detail->records->tables[TABLE_YIELD_POINTS];
}

static Row *
row_of(const Detail *detail, int number)
{
    return &points_of(detail)->rows[number];
}

static bool
may_be_summed(const Row *row)
{
    Bytes point = row->labels[1];
    return !is_equal(point, bytes_of(EAGER_CHILD_NAME)) && !is_equal(point, bytes_of(RUNNING_NAME)) && !is_equal(point, bytes_of(OTHER_NAME));
}

/* --- which rows are shown -------------------------------------------------------------------------- */

static void
find_shown(Detail *detail)
{
    for (int number = 0; number < detail->shown_count; number++) {
        int row = records_find_row(points_of(detail), detail->shown[number].labels);
        if (row >= 0) {
            detail->is_shown[row] = true;
            detail->befores[row] = detail->shown[number].before;
        }
    }
}

static int
compare(const void *one, const void *two)
{
    const Ranked *first = one, *second = two;
    if (first->active_ns != second->active_ns) {
        return first->active_ns > second->active_ns ? -1 : 1;
    }
    return first->row - second->row;
}

static void
rank(Detail *detail)
{
    for (int number = 0; number < detail->row_count; number++) {
        const Row *row = row_of(detail, number);
        if (may_be_summed(row)) {
            Wide active_ns = records_number(detail->records, row, NUMBER_COUNT, POINT_SCALARS).value;
            detail->ranked[detail->ranked_count++] = (Ranked){active_ns, number};
        }
    }
    qsort(detail->ranked, (size_t)detail->ranked_count, sizeof(Ranked), compare);
}

static bool
was_summed(const Detail *detail, Bytes coroutine)
{
    for (int number = 0; number < detail->summed_count; number++) {
        if (is_equal(detail->summed[number], coroutine)) {
            return true;
        }
    }
    return false;
}

static bool
is_counter(Py_ssize_t word)
{
    return word >= POINT_SCALARS || word == POINT_BLOCKING_NS || word == POINT_INFLICTED_WAIT_NS || word == POINT_WAIT_TASKS;
}

/* Writes the counters of a row as a record of a page has them; false if one does not fit there. */
static bool
write_record(const Detail *detail, const Row *row, int64_t *record)
{
    const Records *records = detail->records;
    memset(record, 0, (size_t)records->point_words * sizeof(int64_t));
    Wide squares = records_number(records, row, NUMBER_SQUARE_SECONDS, POINT_SQUARE_S2).value;
    if (squares / SQUARE_NS2 > (Wide)MOST_SQUARE_S2) {
        return false;
    }
    record[POINT_SQUARE_S2] = (int64_t)(squares / SQUARE_NS2);
    record[POINT_SQUARE_NS2] = (int64_t)(squares % SQUARE_NS2);
    for (Py_ssize_t word = 0; word < records->point_words; word++) {
        Wide value = is_counter(word) ? records_number(records, row, NUMBER_COUNT, word).value : (Wide)record[word];
        if (value > INT64_MAX) {
            return false;
        }
        record[word] = (int64_t)value;
    }
    return true;
}

static bool
choose(Detail *detail)
{
    int count = Py_MIN(detail->count, detail->ranked_count);
    for (int number = 0; number < count; number++) {
        int chosen = detail->ranked[number].row;
        if (detail->is_shown[chosen] || detail->shown_count + detail->chosen_count >= detail->most) {
            continue;
        }
        const Row *row = row_of(detail, chosen);
        detail->is_shown[chosen] = true;
        if (was_summed(detail, row->labels[0])) {
            int64_t *record = detail->records->befores + detail->chosen_count * detail->records->point_words;
            if (!write_record(detail, row, record)) {
                return false;
            }
            detail->befores[chosen] = record;
        }
        detail->chosen[detail->chosen_count++] = chosen;
    }
    return true;
}

/* --- what becomes of the others -------------------------------------------------------------------- */

static Part
part_with(const int64_t *record, int weight)
{
    return (Part){.words = record, .weight = weight, .next = -1};
}

/* Makes a row of which a record is the only part; false if there is no memory. */
static bool
make_row(Records *records, const int64_t *record, Row *row)
{
    *row = records_empty_row();
    return records_add_part(records, row, part_with(record, 1)) == ACCEPTED;
}

static bool
number_covers(const Records *records, const Row *now, const Row *before, int kind, Py_ssize_t word)
{
    return records_number(records, now, kind, word).value >= records_number(records, before, kind, word).value;
}

static bool
histogram_covers(const Records *records, const Row *now, const Row *before, int kind, Py_ssize_t word)
{
    Sums more, less;
    records_add_up(records, now, kind, word, &more);
    records_add_up(records, before, kind, word, &less);
    bool covers = more.sum_ns >= less.sum_ns;
    for (size_t bucket = 0; bucket < Py_ARRAY_LENGTH(more.classic); bucket++) {
        covers &= more.classic[bucket] >= less.classic[bucket];
    }
    for (size_t bucket = 0; bucket < Py_ARRAY_LENGTH(more.native); bucket++) {
        covers &= more.native[bucket] >= less.native[bucket];
    }
    return covers;
}

/* Whether no counter has fallen, as they do if a page is left out that was read before. */
static bool
covers(const Records *records, const Row *now, const Row *before)
{
    Py_ssize_t waits = POINT_SCALARS + shape_of(records, NUMBER_SEGMENTS)->pieces + 1;
    return number_covers(records, now, before, NUMBER_SECONDS, POINT_BLOCKING_NS) &&
           number_covers(records, now, before, NUMBER_SECONDS, POINT_INFLICTED_WAIT_NS) &&
           number_covers(records, now, before, NUMBER_SQUARE_SECONDS, POINT_SQUARE_S2) &&
           number_covers(records, now, before, NUMBER_COUNT, POINT_WAIT_TASKS) &&
           histogram_covers(records, now, before, NUMBER_SEGMENTS, POINT_SCALARS) &&
           histogram_covers(records, now, before, NUMBER_WAITS, waits);
}

/* Returns the row of the others of a row's coroutine; NULL if there is no memory. */
static Row *
row_of_others(Detail *detail, int number)
{
    Bytes labels[LABELS] = {row_of(detail, number)->labels[0], bytes_of(OTHER_NAME), bytes_of(OTHER_NAME)};
    int found = records_row(points_of(detail), labels);
    detail->is_summed[number] = true;
    return found < 0 ? NULL : row_of(detail, found);
}

/* Moves all of a row to the others. */
static Outcome
sum_up(Detail *detail, int number)
{
    Records *records = detail->records;
    Row *others = row_of_others(detail, number), *row = row_of(detail, number);
    Outcome outcome = others == NULL ? NO_MEMORY : ACCEPTED;
    for (int part = row->first; part >= 0 && outcome == ACCEPTED; part = records->parts[part].next) {
        outcome = records_add_part(records, others, records->parts[part]);
    }
    if (outcome == ACCEPTED) {
        records_keep_newer(records, others, 0, row->exemplars[0]);
        row->groups = 0;
    }
    return outcome;
}

/* Leaves with the others what a row had counted before it was shown. */
static Outcome
leave_before(Detail *detail, int number)
{
    Records *records = detail->records;
    const int64_t *record = detail->befores[number];
    Row before;
    if (!make_row(records, record, &before)) {
        return NO_MEMORY;
    }
    if (!covers(records, row_of(detail, number), &before)) {
        return ACCEPTED;
    }
    Outcome outcome = records_add_part(records, row_of_others(detail, number), part_with(record, 1));
    return outcome == ACCEPTED ? records_add_part(records, row_of(detail, number), part_with(record, -1)) : outcome;
}

static Outcome
fold(Detail *detail)
{
    find_shown(detail);
    rank(detail);
    if (!choose(detail)) {
        return DECLINED;
    }
    Outcome outcome = ACCEPTED;
    for (int number = 0; number < detail->row_count && outcome == ACCEPTED; number++) {
        if (detail->befores[number] != NULL) {
            outcome = leave_before(detail, number);
        }
        else if (!detail->is_shown[number] && may_be_summed(row_of(detail, number))) {
            outcome = sum_up(detail, number);
        }
    }
    return outcome;
}

/* --- for Python ------------------------------------------------------------------------------------ */

/* Whether a yield point of a page may have such a record. That of other pages has another length. */
static bool
is_sound(const Records *records, Bytes record)
{
    if (record.length != (size_t)records->point_words * sizeof(int64_t)) {
        return false;
    }
    const int64_t *words = (const int64_t *)(const void *)record.start;
    for (Py_ssize_t word = 0; word < records->point_words; word++) {
        if (words[word] < 0) {
            return false;
        }
    }
    return words[POINT_SQUARE_S2] <= MOST_SQUARE_S2 && words[POINT_SQUARE_NS2] < (int64_t)SQUARE_NS2;
}

static int
read_shown(const Records *records, PyObject *given, Shown *shown)
{
    PyObject *labels[LABELS], *before;
    if (!PyArg_ParseTuple(given, "SSSO", &labels[0], &labels[1], &labels[2], &before)) {
        return -1;
    }
    for (int number = 0; number < LABELS; number++) {
        if (read_bytes(labels[number], &shown->labels[number]) < 0) {
            return -1;
        }
    }
    Bytes record;
    if (before == Py_None) {
        return 0;
    }
    if (read_bytes(before, &record) < 0) {
        return -1;
    }
    shown->before = is_sound(records, record) ? (const int64_t *)(const void *)record.start : NULL;
    return 0;
}

static int
read_detail(Detail *detail, PyObject *shown, PyObject *summed)
{
    for (; detail->shown_count < PyTuple_GET_SIZE(shown); detail->shown_count++) {
        if (read_shown(detail->records, PyTuple_GET_ITEM(shown, detail->shown_count), &detail->shown[detail->shown_count]) < 0) {
            return -1;
        }
    }
    for (; detail->summed_count < PyTuple_GET_SIZE(summed); detail->summed_count++) {
        if (read_bytes(PyTuple_GET_ITEM(summed, detail->summed_count), &detail->summed[detail->summed_count]) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Takes the memory that is needed, where there may be nothing of a kind. */
static bool
make_room(Detail *detail, Py_ssize_t shown, Py_ssize_t summed)
{
    Records *records = detail->records;
    size_t rows = (size_t)detail->row_count + 1, chosen = (size_t)Py_MIN(detail->count, detail->row_count) + 1;
    detail->shown = calloc((size_t)shown + 1, sizeof(Shown));
    detail->summed = calloc((size_t)summed + 1, sizeof(Bytes));
    detail->ranked = calloc(rows, sizeof(Ranked));
    detail->chosen = calloc(rows, sizeof(int));
    detail->befores = calloc(rows, sizeof(int64_t *));
    detail->is_shown = calloc(rows, sizeof(bool));
    detail->is_summed = calloc(rows, sizeof(bool));
    free(records->befores);
    records->befores = calloc(chosen * (size_t)records->point_words, sizeof(int64_t));
    return detail->shown && detail->summed && detail->ranked && detail->chosen && detail->befores && detail->is_shown && detail->is_summed && records->befores;
}

static void
free_detail(const Detail *detail)
{
    free(detail->shown);
    free(detail->summed);
    free(detail->ranked);
    free(detail->chosen);
    free(detail->befores);
    free(detail->is_shown);
    free(detail->is_summed);
}

static int
append(PyObject *list, PyObject *item)
{
    int appended = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return appended;
}

static PyObject *
for_python(const Detail *detail)
{
    PyObject *chosen = PyList_New(0), *summed = PyList_New(0);
    bool failed = chosen == NULL || summed == NULL;
    Py_ssize_t record_bytes = detail->records->point_words * (Py_ssize_t)sizeof(int64_t);
    for (int number = 0; number < detail->chosen_count && !failed; number++) {
        const Bytes *labels = row_of(detail, detail->chosen[number])->labels;
        const int64_t *before = detail->befores[detail->chosen[number]];
        failed = append(chosen, Py_BuildValue("y#y#y#y#", labels[0].start, (Py_ssize_t)labels[0].length, labels[1].start, (Py_ssize_t)labels[1].length, labels[2].start, (Py_ssize_t)labels[2].length, (const char *)before, before == NULL ? 0 : record_bytes)) < 0;
    }
    for (int number = 0; number < detail->row_count && !failed; number++) {
        Bytes coroutine = row_of(detail, number)->labels[0];
        if (detail->is_summed[number] && !was_summed(detail, coroutine)) {
            failed = append(summed, PyBytes_FromStringAndSize(coroutine.start, (Py_ssize_t)coroutine.length)) < 0;
        }
    }
    PyObject *found = failed ? NULL : PyTuple_Pack(2, chosen, summed);
    Py_XDECREF(chosen);
    Py_XDECREF(summed);
    return found;
}

static PyObject *
fold_for_python(Detail *detail)
{
    PyThreadState *state = handover_leave();
    Outcome outcome = fold(detail);
    handover_return(state);
    if (outcome == NO_MEMORY) {
        return PyErr_NoMemory();
    }
    return outcome == ACCEPTED ? for_python(detail) : Py_NewRef(Py_None);
}

PyObject *
records_fold(PyObject *self, PyObject *args)
{
    PyObject *shown, *summed, *found = NULL;
    Detail detail = {.records = (Records *)self};
    if (!PyArg_ParseTuple(args, "iiO!O!:fold", &detail.count, &detail.most, &PyTuple_Type, &shown, &PyTuple_Type, &summed)) {
        return NULL;
    }
    if (detail.count < 0) {
        return PyErr_Format(PyExc_ValueError, "%d yield points cannot be kept", detail.count);
    }
    detail.row_count = points_of(&detail)->count;
    Py_XSETREF(detail.records->shown, Py_NewRef(shown));
    if (!make_room(&detail, PyTuple_GET_SIZE(shown), PyTuple_GET_SIZE(summed))) {
        PyErr_NoMemory();
    }
    else if (read_detail(&detail, shown, summed) == 0) {
        found = fold_for_python(&detail);
    }
    free_detail(&detail);
    return found;
}
