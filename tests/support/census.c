/* SPDX-License-Identifier: Apache-2.0 */
#include "census.h"

#include "base/alloc.h"
#include "wait.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RETURN_MS 10000

static int entries(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0;

    if (!dir)
        return -1;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

int census_threads(void)
{
    return entries("/proc/self/task");
}

int census_threads_named(const char *name)
{
    DIR *dir = opendir("/proc/self/task");
    const struct dirent *entry;
    char path[300], comm[32];
    int n = 0;

    while (dir && (entry = readdir(dir)) != NULL) {
        (void)snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!file)
            continue;
        if (fgets(comm, sizeof comm, file) && strncmp(comm, name, strlen(name)) == 0 && comm[strlen(name)] == '\n')
            n++;
        (void)fclose(file);
    }
    if (dir)
        closedir(dir);
    return n;
}

int census_descriptors(void)
{
    return entries("/proc/self/fd") - 1; /* the one that reads the folder */
}

void census_take(struct census *census)
{
    census->threads = census_threads();
    census->descriptors = census_descriptors();
    census->blocks = ev_alloc_live();
}

static bool returned(void *arg)
{
    const struct census *before = arg;
    struct census now;

    census_take(&now);
    return now.threads <= before->threads && now.descriptors <= before->descriptors && now.blocks <= before->blocks;
}

/* Appends " LINK" for each descriptor: which one was left is the first question. */
static void name_descriptors(char *text, size_t cap)
{
    DIR *dir = opendir("/proc/self/fd");
    const struct dirent *entry;
    char path[300], target[120];
    size_t at = strlen(text);

    while (dir && (entry = readdir(dir)) != NULL && at < cap) {
        (void)snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        const ssize_t n = readlink(path, target, sizeof target - 1);
        if (n <= 0)
            continue;
        target[n] = 0;
        at += (size_t)snprintf(text + at, cap - at, " %s=%s", entry->d_name, target);
    }
    if (dir)
        closedir(dir);
}

bool census_returned(const struct census *before, char *text, size_t cap)
{
    struct census now;

    if (wait_until(returned, (void *)before, RETURN_MS))
        return true;
    census_take(&now);
    (void)snprintf(text, cap, "left behind: %d threads, %d descriptors, %" PRId64 " blocks",
                   now.threads - before->threads, now.descriptors - before->descriptors,
                   (int64_t)(now.blocks - before->blocks));
    if (now.descriptors > before->descriptors)
        name_descriptors(text, cap);
    return false;
}
