#include "libuv.h"

#if LIBUV_CAN_BE_FOUND

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

Libuv libuv;

#define MIN_VERSION 0x012700u /* 1.39, which measures idle time */
#define METRICS_IDLE_TIME 1   /* uv_loop_option */
#define RUN_NOWAIT 2          /* uv_run_mode */
static const int handle_types[LIBUV_KINDS] = {[LIBUV_PREPARE] = 9, [LIBUV_CHECK] = 2};
enum { FLAG_ACTIVE = 4, FLAG_REF = 8, FLAG_INTERNAL = 16 };

static const char *
find_all(void *module)
{
    const struct {
        const char *name;
        void *place;
        int optional;
    } functions[] = {
        {"uv_version", &libuv.version, 0},
        {"uv_handle_size", &libuv.handle_size, 0},
        {"uv_loop_size", &libuv.loop_size, 0},
        {"uv_loop_init", &libuv.loop_init, 0},
        {"uv_loop_close", &libuv.loop_close, 0},
        {"uv_loop_configure", &libuv.loop_configure, 0},
        {"uv_run", &libuv.run, 0},
        {"uv_metrics_idle_time", &libuv.metrics_idle_time, 0},
        {"uv_backend_timeout", &libuv.backend_timeout, 0},
        {"uv_prepare_init", &libuv.init[LIBUV_PREPARE], 0},
        {"uv_prepare_start", &libuv.start[LIBUV_PREPARE], 0},
        {"uv_check_init", &libuv.init[LIBUV_CHECK], 0},
        {"uv_check_start", &libuv.start[LIBUV_CHECK], 0},
        {"uv_unref", &libuv.unref, 0},
        {"uv_close", &libuv.close, 0},
        {"uv_walk", &libuv.walk, 0},
        {"uv_metrics_info", &libuv.metrics_info, 1},
    };
    for (size_t number = 0; number < Py_ARRAY_LENGTH(functions); number++) {
        void *found = dlsym(module, functions[number].name);
        if (found == NULL && !functions[number].optional) {
            static char reason[64];
            (void)snprintf(reason, sizeof(reason), "its libuv has no %s", functions[number].name);
            return reason;
        }
        memcpy(functions[number].place, &found, sizeof(found));
    }
    return NULL;
}

int
libuv_measure_idle_time(void *loop)
{
    return libuv.loop_configure(loop, METRICS_IDLE_TIME);
}

void
libuv_add(void *loop, LibuvHandle *handle, LibuvKind kind, LibuvCallback callback)
{
    (void)libuv.init[kind](loop, handle);
    (void)libuv.start[kind](handle, callback);
    libuv.unref(handle);
    handle->data = NULL;
    handle->flags |= FLAG_INTERNAL;
}

/* --- the trial ----------------------------------------------------------------------------------- */

static int callbacks;

static void
count(LibuvHandle *Py_UNUSED(handle))
{
    callbacks++;
}

static void
count_walked(LibuvHandle *Py_UNUSED(handle), void *walked)
{
    ++*(int *)walked;
}

static int
walked(void *loop)
{
    int handles = 0;
    libuv.walk(loop, count_walked, &handles);
    return handles;
}

/* Adds a handle to a loop of our own step by step, and looks at each step whether it does what
   libuv_add() relies on. */
static const char *
try_handle(void *loop, LibuvHandle *handle, LibuvKind kind)
{
    int before = walked(loop);
    callbacks = 0;
    if (libuv.init[kind](loop, handle) != 0 || libuv.start[kind](handle, count) != 0) {
        return "a handle cannot be started";
    }
    if (handle->loop != loop || handle->type != handle_types[kind] || (handle->flags & FLAG_ACTIVE) == 0) {
        return "handles look different in this libuv";
    }
    (void)libuv.run(loop, RUN_NOWAIT);
    if (callbacks != (int)kind + 1) { /* the earlier ones are called as well */
        return "a handle is not called once for each turn";
    }
    unsigned int flags = handle->flags;
    libuv.unref(handle);
    if ((flags & FLAG_REF) == 0 || handle->flags != (flags & ~(unsigned int)FLAG_REF) || (flags & FLAG_INTERNAL) != 0) {
        return "the flags of handles are different in this libuv";
    }
    if (walked(loop) != before + 1) {
        return "uv_walk() does not see a handle";
    }
    handle->flags |= FLAG_INTERNAL;
    return walked(loop) == before ? NULL : "uv_walk() sees internal handles";
}

static const char *
try_on(void *loop, LibuvHandle *handles)
{
    if (libuv_measure_idle_time(loop) != 0) {
        return "idle time cannot be measured";
    }
    for (int kind = 0; kind < LIBUV_KINDS; kind++) {
        const char *reason = try_handle(loop, &handles[kind], (LibuvKind)kind);
        if (reason != NULL) {
            return reason;
        }
    }
    callbacks = 0;
    for (int kind = 0; kind < LIBUV_KINDS; kind++) {
        libuv.close(&handles[kind], count);
    }
    (void)libuv.run(loop, RUN_NOWAIT);
    return callbacks == LIBUV_KINDS && libuv.loop_close(loop) == 0 ? NULL : "handles cannot be closed";
}

/* What fails stays allocated: libuv may still refer to it. */
static const char *
try_all(void)
{
    void *loop = calloc(1, libuv.loop_size());
    LibuvHandle *handles = calloc(LIBUV_KINDS, sizeof(LibuvHandle));
    if (loop == NULL || handles == NULL || libuv.loop_init(loop) != 0) {
        return "a loop cannot be made";
    }
    const char *reason = try_on(loop, handles);
    if (reason == NULL) {
        free(loop);
        free(handles);
    }
    return reason;
}

static const char *
bind(void *module)
{
    const char *missing = find_all(module);
    if (missing != NULL) {
        return missing;
    }
    unsigned int version = libuv.version();
    if (version >> 16 != 1 || version < MIN_VERSION) {
        return "its libuv is none of 1.39 or a later 1.x";
    }
    for (int kind = 0; kind < LIBUV_KINDS; kind++) {
        if (libuv.handle_size(handle_types[kind]) != LIBUV_HANDLE_BYTES) {
            return "handles have another size in this libuv";
        }
    }
    return try_all();
}

const char *
libuv_bind(const char *path)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    return module == NULL ? "its extension module is not loaded" : bind(module);
}

#endif
