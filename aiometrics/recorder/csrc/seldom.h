/* Tells compilers what hardly ever happens, so that it costs the rest nothing: not even registers to save. */
#ifndef AIOMETRICS_SELDOM_H
#define AIOMETRICS_SELDOM_H

#if defined(__GNUC__)
#define SELDOM __attribute__((cold, noinline))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#else
#define SELDOM
#define LIKELY(condition) (condition)
#endif

#endif
