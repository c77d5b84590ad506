/* CPU time: of the server, which may be several processes, and of the whole machine. */
#define _GNU_SOURCE
#include "load.h"

#include <glob.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 64 };
static clockid_t clocks[PROCESSES];
static unsigned process_count;

static void watch_children(const char *path)
{
    FILE *file = fopen(path, "r");
    int pid;
    while (file && fscanf(file, "%d", &pid) == 1)
        watch_server(pid);
    if (file)
        fclose(file);
}

void watch_server(int pid)
{
    if (process_count == PROCESSES || clock_getcpuclockid(pid, &clocks[process_count]))
        return;
    process_count++;
    char pattern[64];
    snprintf(pattern, sizeof pattern, "/proc/%d/task/*/children", pid);
    glob_t found;
    if (!glob(pattern, 0, NULL, &found))
        for (size_t i = 0; i < found.gl_pathc; i++)
            watch_children(found.gl_pathv[i]);
    globfree(&found);
}

double server_cpu(void)
{
    double seconds = 0;
    for (unsigned i = 0; i < process_count; i++) {
        struct timespec used;
        if (!clock_gettime(clocks[i], &used))
            seconds += used.tv_sec + used.tv_nsec / 1e9;
    }
    return seconds;
}

double machine_cpu(void)
{
    unsigned long user, nice, system, idle, wait, hard, soft, steal;
    FILE *file = fopen("/proc/stat", "r");
    if (!file)
        return 0;
    int found = fscanf(file, "cpu %lu %lu %lu %lu %lu %lu %lu %lu", &user, &nice, &system, &idle,
                       &wait, &hard, &soft, &steal);
    fclose(file);
    return found == 8 ? (user + nice + system + hard + soft + steal) / (double)sysconf(_SC_CLK_TCK)
                      : 0;
}
