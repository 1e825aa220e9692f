/* How irqbalance reads /proc/interrupts, for the comparison of `make bench CRATE=irqaff`: getline, a copy of each line, strtoul for the number,
 * strtoull for each cell (parse_proc_interrupts in procinterrupts.c of irqbalance 1.9.2, GPL-2.0; written anew here after what it does).
 * Arguments: FILE RUNS. Prints the milliseconds of each run. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned long long once(const char *path, unsigned long *lines)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;
	unsigned long long all = 0;

	if (!file || getline(&line, &size, file) <= 0)
		exit(2);
	while (getline(&line, &size, file) > 0) {
		char *copy = strdup(line), *c = copy, *end;
		unsigned long long count = 0;

		while (isblank(*c))
			c++;
		if (!isdigit(*c)) {
			free(copy);
			continue;
		}
		strtoul(c, &end, 10);
		c = end + 1;
		for (;;) {
			unsigned long long cell = strtoull(c, &end, 10);
			if (c == end)
				break;
			count += cell;
			c = end;
		}
		all += count;
		(*lines)++;
		free(copy);
	}
	free(line);
	fclose(file);
	return all;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	for (int run = 0; run <= atoi(argv[2]); run++) {
		struct timespec a, b;
		unsigned long lines = 0;
		unsigned long long all;

		clock_gettime(CLOCK_MONOTONIC, &a);
		all = once(argv[1], &lines);
		clock_gettime(CLOCK_MONOTONIC, &b);
		/* The first is not counted: its pages have to be mapped. */
		if (run)
			printf("%.4f %lu %llu\n", (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6, lines, all);
	}
	return 0;
}
