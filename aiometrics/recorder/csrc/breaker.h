/* Makes the main thread look for pending calls at once.

   Up to Python 3.12 a pending call that another thread adds is only found when the GIL is next asked
   for, unless the interpreter's flag is set too. It is declared in internal headers, and a patch
   release may move it, so it is used only where it is seen to change as it should. */
#ifndef AIOMETRICS_BREAKER_H
#define AIOMETRICS_BREAKER_H

/* Checks the flag, in the main thread with the GIL. */
void breaker_check(void);

/* Sets the flag. Needs no GIL. */
void breaker_set(void);

#endif
