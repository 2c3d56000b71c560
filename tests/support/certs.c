/* SPDX-License-Identifier: Apache-2.0 */
#include "certs.h"

#include <stdio.h>
#include <stdlib.h>

static const char script[] =
    "set -e; cd '%s'\n"
    "key() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }\n"
    "ca() { key $1; openssl req -x509 -new -key $1.key -days 2 -subj /CN=$1 -out $1.pem"
    " -addext basicConstraints=critical,CA:TRUE; }\n"
    "leaf() { key $1; openssl req -new -key $1.key -subj /CN=$1 -out $1.csr;"
    " printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >$1.ext;"
    " openssl x509 -req -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $1.ext -out $1.pem; }\n"
    "{ ca ca; ca other-ca; leaf server; leaf client; } >certs.log 2>&1\n";

bool certs_make(const char *dir)
{
    char command[sizeof script + 128];

    const int n = snprintf(command, sizeof command, script, dir);
    return n > 0 && (size_t)n < sizeof command && system(command) == 0;
}
