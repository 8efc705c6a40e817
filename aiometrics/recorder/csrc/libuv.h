/* The functions of the libuv that an extension module has inside or is linked to. They are found by
   name, because the module brings no headers; what is assumed beyond libuv's documentation is tried
   on a loop of our own before any other is touched. */
#ifndef AIOMETRICS_LIBUV_H
#define AIOMETRICS_LIBUV_H

#include <Python.h>
#include <stdint.h>

#if defined(__unix__) || defined(__APPLE__)
#define LIBUV_CAN_BE_FOUND 1
#else
#define LIBUV_CAN_BE_FOUND 0
#endif

#define LIBUV_HANDLE_BYTES 120

/* A prepare or check handle, as in every libuv 1.x that is accepted. */
typedef struct LibuvHandle {
    void *data;
    void *loop;
    int type;
    void (*close_cb)(struct LibuvHandle *);
    void *queue[2];
    void *reserved[4];
    struct LibuvHandle *next_closing;
    unsigned int flags;
    char rest[LIBUV_HANDLE_BYTES - 92];
} LibuvHandle;

typedef void (*LibuvCallback)(LibuvHandle *);

typedef struct {
    uint64_t loop_count;
    uint64_t events;
    uint64_t events_waiting;
    uint64_t *reserved[13];
} LibuvMetrics;

typedef enum { LIBUV_PREPARE, LIBUV_CHECK, LIBUV_KINDS } LibuvKind;

typedef struct {
    unsigned int (*version)(void);
    size_t (*handle_size)(int type);
    size_t (*loop_size)(void);
    int (*loop_init)(void *loop);
    int (*loop_close)(void *loop);
    int (*loop_configure)(void *loop, int option, ...);
    int (*run)(void *loop, int mode);
    uint64_t (*metrics_idle_time)(void *loop);
    int (*backend_timeout)(const void *loop);
    int (*init[LIBUV_KINDS])(void *loop, LibuvHandle *handle);
    int (*start[LIBUV_KINDS])(LibuvHandle *handle, LibuvCallback callback);
    void (*unref)(LibuvHandle *handle);
    void (*close)(LibuvHandle *handle, LibuvCallback closed);
    void (*walk)(void *loop, void (*callback)(LibuvHandle *, void *), void *argument);
    int (*metrics_info)(void *loop, LibuvMetrics *metrics); /* since 1.45, else NULL */
} Libuv;

extern Libuv libuv;

/* Finds the functions through the file of an extension module that is loaded, and tries them.
   Returns why they cannot be used; NULL if they can. */
const char *libuv_bind(const char *path);

/* Makes a loop measure how long it waits for events. 0 if it does. */
int libuv_measure_idle_time(void *loop);

/* Adds a handle to a loop that neither keeps the loop running nor is seen by uv_walk(). uvloop walks
   over all handles when it closes, and takes `data` for an object of its own. */
void libuv_add(void *loop, LibuvHandle *handle, LibuvKind kind, LibuvCallback callback);

#endif
