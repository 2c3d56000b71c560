/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer: first the files and folders given, then documents from a seeded generator.
 *
 *   fuzz_x [-t SECONDS] [-n DOCUMENTS] [-s SEED] [FILE|FOLDER]...
 *
 * With both -t and -n the first one reached ends it. Document k has the seed SEED+k; an abort names it.
 */
#include "generator.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile sig_atomic_t generating;
static uint64_t current_seed;

/* ---- Files and main ---------------------------------------------------------------------------------------------- */

static int run_path(const char *path, uint64_t *count)
{
    struct stat info;
    int failures = 0;

    if (stat(path, &info) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    if (S_ISDIR(info.st_mode)) {
        DIR *dir = opendir(path);
        const struct dirent *entry;
        char sub[4096];

        while (dir && (entry = readdir(dir)) != NULL) {
            if (entry->d_name[0] == '.')
                continue;
            snprintf(sub, sizeof sub, "%s/%s", path, entry->d_name);
            failures += run_path(sub, count);
        }
        if (dir)
            closedir(dir);
        return failures + !dir;
    }

    FILE *file = fopen(path, "rb");
    const size_t size = (size_t)info.st_size;
    uint8_t *bytes = malloc(size ? size : 1);
    if (!file || !bytes || fread(bytes, 1, size, file) != size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        failures = 1;
    } else {
        LLVMFuzzerTestOneInput(bytes, size);
        (*count)++;
    }
    free(bytes);
    if (file)
        fclose(file);
    return failures;
}

static void on_abort(int signal_number)
{
    char text[64] = "replay: repeat with -n 1 -s ";
    size_t n = strlen(text);
    char digits[20];
    size_t at = sizeof digits;

    if (generating) {
        for (uint64_t seed = current_seed; at == sizeof digits || seed > 0; seed /= 10)
            digits[--at] = (char)('0' + seed % 10);
        memcpy(text + n, digits + at, sizeof digits - at);
        n += sizeof digits - at;
        text[n++] = '\n';
        if (write(STDERR_FILENO, text, n) < 0)
            _exit(2);
    }
    signal(signal_number, SIG_DFL);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint64_t run_generator(uint64_t seed, uint64_t documents, double limit)
{
    static struct doc doc;
    const double begin = seconds();
    uint64_t made = 0;

    generating = 1;
    for (; made < documents; made++) {
        if (made % 256 == 0 && seconds() - begin >= limit)
            break;
        current_seed = seed + made;
        generate(&doc, current_seed);
        LLVMFuzzerTestOneInput((const uint8_t *)doc.bytes, doc.len);
    }
    generating = 0;
    return made;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, documents = 0, files = 0, made = 0;
    double limit = 0;
    int failures = 0, option;
    const double begin = seconds();

    while ((option = getopt(argc, argv, "t:n:s:")) != -1) {
        if (option == 't')
            limit = strtod(optarg, NULL);
        else if (option == 'n')
            documents = strtoull(optarg, NULL, 10);
        else if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else
            return 2;
    }
    signal(SIGABRT, on_abort);
    for (int i = optind; i < argc; i++)
        failures += run_path(argv[i], &files);
    if (documents > 0 || limit > 0)
        made = run_generator(seed, documents > 0 ? documents : UINT64_MAX, limit > 0 ? limit : 1e9);
    printf("%s: %" PRIu64 " files, %" PRIu64 " documents from seed %" PRIu64 ", %.2f s\n", argv[0], files, made, seed,
           seconds() - begin);
    return failures ? 1 : 0;
}
