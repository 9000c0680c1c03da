// Tells callgrind, under which bench/instructions.py runs, what to count. Outside of it these do nothing.
#include <valgrind/callgrind.h>

extern "C" void start() { CALLGRIND_START_INSTRUMENTATION; }

extern "C" void forget() { CALLGRIND_ZERO_STATS; }

extern "C" void write(const char* name) { CALLGRIND_DUMP_STATS_AT(name); }
