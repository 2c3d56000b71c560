/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Days are counted in eras of 400 years that begin on 1 March of year 0, so that the leap day is the last of its year
 * and every month's first day is (153 * month + 2) / 5, months from March.
 */
#include "core/rfc3339.h"

#include <stdbool.h>
#include <string.h>

#define NS_PER_SEC INT64_C(1000000000)
#define SEC_PER_DAY INT64_C(86400)
#define DAYS_PER_ERA INT64_C(146097)
#define EPOCH_DAYS INT64_C(719468)        /* 0000-03-01 to 1970-01-01 */
#define GO_ZERO_SEC INT64_C(-62135596800) /* 0001-01-01T00:00:00Z */
#define SHORTEST 20                       /* "2006-01-02T15:04:05Z" */

static const char pairs[] =
    "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
    "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

static inline void put2(char *out, unsigned value)
{
    memcpy(out, pairs + 2 * value, 2);
}

/* ".123456789" without its trailing zeros, nothing for 0. */
static size_t put_fraction(char *out, uint32_t ns)
{
    size_t n = 10;

    if (ns == 0)
        return 0;
    out[0] = '.';
    out[1] = (char)('0' + ns / 100000000);
    put2(out + 2, ns / 1000000 % 100);
    put2(out + 4, ns / 10000 % 100);
    put2(out + 6, ns / 100 % 100);
    put2(out + 8, ns % 100);
    while (out[n - 1] == '0')
        n--;
    return n;
}

size_t ev_rfc3339_put(char *out, int64_t time_ns)
{
    int64_t sec = time_ns / NS_PER_SEC;
    int64_t ns = time_ns % NS_PER_SEC;

    if (ns < 0) { /* division cuts towards zero, clocks count upwards */
        ns += NS_PER_SEC;
        sec--;
    }

    /* Positive for all of int64 nanoseconds: the era of 1677 is era 4. */
    const uint64_t since = (uint64_t)(sec + EPOCH_DAYS * SEC_PER_DAY);
    const uint32_t clock = (uint32_t)(since % (uint64_t)SEC_PER_DAY);
    const uint32_t days = (uint32_t)(since / (uint64_t)SEC_PER_DAY);
    const uint32_t day = days % (uint32_t)DAYS_PER_ERA;
    const uint32_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    const uint32_t day_of_year = day - (365 * year + year / 4 - year / 100);
    const uint32_t month = (5 * day_of_year + 2) / 153; /* 0: March */
    const uint32_t full = year + days / (uint32_t)DAYS_PER_ERA * 400 + (month >= 10);

    put2(out, full / 100);
    put2(out + 2, full % 100);
    out[4] = '-';
    put2(out + 5, month < 10 ? month + 3 : month - 9);
    out[7] = '-';
    put2(out + 8, day_of_year - (153 * month + 2) / 5 + 1);
    out[10] = 'T';
    put2(out + 11, clock / 3600);
    out[13] = ':';
    put2(out + 14, clock / 60 % 60);
    out[16] = ':';
    put2(out + 17, clock % 60);

    const size_t n = 19 + put_fraction(out + 19, (uint32_t)ns);
    out[n] = 'Z';
    return n + 1;
}

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "dddd-dd-ddTdd:dd:dd": the value of a template's digits is checked later, by field. */
static bool has_shape(const char *text, const char *shape)
{
    for (; *shape; shape++, text++) {
        if (*shape == '0' ? !is_digit(*text) : *text != *shape)
            return false;
    }
    return true;
}

static inline int get2(const char *text)
{
    return (text[0] - '0') * 10 + (text[1] - '0');
}

static int days_of_month(int year, int month)
{
    static const char days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
        return 29;
    return days[month - 1];
}

static int64_t days_from_epoch(int year, int month, int day)
{
    const int from_march = month > 2 ? month - 3 : month + 9;
    const int64_t shifted = year + 400 - (month <= 2); /* one era up: year 0 in January stays positive */
    const int64_t of_era = shifted % 400;
    const int64_t day_of_year = (153 * from_march + 2) / 5 + day - 1;
    const int64_t day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;

    return (shifted / 400 - 1) * DAYS_PER_ERA + day_of_era - EPOCH_DAYS;
}

/* Reads ".ddd..." if it is there; returns what follows, NULL if no digit follows the dot. */
static const char *get_fraction(const char *at, const char *end, int64_t *ret_ns)
{
    int64_t scale = NS_PER_SEC / 10;

    *ret_ns = 0;
    if (at == end || *at != '.')
        return at;
    if (++at == end || !is_digit(*at))
        return NULL;
    for (; at < end && is_digit(*at); at++, scale /= 10)
        *ret_ns += (*at - '0') * scale;
    return at;
}

/* Exactly "Z" or "+hh:mm" must be left. */
static const char *get_offset(const char *at, const char *end, int64_t *ret_sec)
{
    *ret_sec = 0;
    if (end - at == 1 && *at == 'Z')
        return NULL;
    if (end - at != 6 || (*at != '+' && *at != '-') || !has_shape(at + 1, "00:00"))
        return "does not end with Z or an offset as in +08:00";

    const int hour = get2(at + 1);
    const int minute = get2(at + 4);
    if (hour > 23 || minute > 59)
        return "offset is outside -23:59..+23:59";
    *ret_sec = (hour * 60 + minute) * (*at == '-' ? -60 : 60);
    return NULL;
}

static const char *get_seconds(const char *text, int64_t *ret_sec)
{
    const int year = get2(text) * 100 + get2(text + 2);
    const int month = get2(text + 5);
    const int day = get2(text + 8);
    const int hour = get2(text + 11);
    const int minute = get2(text + 14);
    const int second = get2(text + 17);

    if (month < 1 || month > 12)
        return "month is outside 01..12";
    if (day < 1 || day > days_of_month(year, month))
        return "day is not in that month";
    if (hour > 23)
        return "hour is outside 00..23";
    if (minute > 59)
        return "minute is outside 00..59";
    if (second > 59) /* Go refuses leap seconds */
        return "second is outside 00..59";
    *ret_sec = days_from_epoch(year, month, day) * SEC_PER_DAY + hour * 3600 + minute * 60 + second;
    return NULL;
}

const char *ev_rfc3339_get(const char *text, size_t len, int64_t *ret)
{
    const char *end = text + len;
    const char *wrong;
    int64_t sec, ns, offset;

    if (len < SHORTEST || !has_shape(text, "0000-00-00T00:00:00"))
        return "is not RFC 3339, as in 2006-01-02T15:04:05.999999999Z";
    wrong = get_seconds(text, &sec);
    if (wrong)
        return wrong;

    const char *at = get_fraction(text + 19, end, &ns);
    if (!at)
        return "fraction has no digits";
    wrong = get_offset(at, end, &offset);
    if (wrong)
        return wrong;
    sec -= offset;

    if (sec == GO_ZERO_SEC && ns == 0) {
        *ret = 0;
        return NULL;
    }
    if (sec < 0 && ns > 0) { /* so that the earliest second does not overflow before its fraction is added */
        sec++;
        ns -= NS_PER_SEC;
    }
    int64_t time_ns;
    if (__builtin_mul_overflow(sec, NS_PER_SEC, &time_ns) || __builtin_add_overflow(time_ns, ns, &time_ns))
        return "is outside the years 1678..2262";
    *ret = time_ns;
    return NULL;
}
