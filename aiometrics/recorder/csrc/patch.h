/* Replaces a function of a type by one of ours, and puts it back.

   What somebody else has replaced since is left alone: their function may call ours, which then only
   passes on what it is given. */
#ifndef AIOMETRICS_PATCH_H
#define AIOMETRICS_PATCH_H

#include <Python.h>

typedef void (*Function)(void);

typedef struct {
    const char *name;
    Function ours;
    Function *place;   /* where the type keeps it; NULL if it was not found */
    Function original; /* stays known, since ours may still be running, or be called by others */
    int applied;
} Patch;

#define PATCHED(patch, kind) ((kind)(patch).original)

static inline int
patch_is_in_place(const Patch *patch)
{
    return patch->applied && *patch->place == patch->ours;
}

static inline void
patch_apply(Patch *patch)
{
    if (patch->place != NULL && !patch->applied) {
        patch->original = *patch->place;
        *patch->place = patch->ours;
        patch->applied = 1;
    }
}

/* Puts back the original, if ours is still what stands there. */
static inline void
patch_undo(Patch *patch)
{
    if (patch_is_in_place(patch)) {
        *patch->place = patch->original;
    }
    if (patch->applied && *patch->place == patch->original) {
        patch->applied = 0;
    }
}

/* Undoes it, or appends its name to a list if it has to be left. -1 with an exception. */
int patch_undo_or_list(Patch *patch, PyObject *left);

/* Where a method of a type keeps its function; NULL if it is no method in C with these flags. */
Function *patch_method(PyTypeObject *type, const char *name, int flags);

#endif
