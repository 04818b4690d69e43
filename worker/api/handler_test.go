// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// ask sends one request to a handler; headers are pairs.
func ask(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = "10.1.1.1:999"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// routeCase is one request and what it is to come to.
type routeCase struct {
	name, method, target, body string
	headers                    []string
	status                     int
	code, field                string // of the problem
	has                        string // in the body
	call                       string // noted by the backend
}

// routeCases are, for each route, a good request at least, and what may be wrong with it.
func routeCases() []routeCase {
	const put = `{"id":"h-1","partition":"z1/p1/c1"}`
	return []routeCase{
		{name: "hosts", method: "GET", target: "/v1/hosts", status: 200, has: `"id":"h-10"`},
		{name: "hosts filtered", method: "GET", target: "/v1/hosts?partition=z1/p1&state=suspect,FENCED&labels=rack+in+(7,8),!x", status: 200, has: `"id":"h-2"`},
		{name: "hosts none", method: "GET", target: "/v1/hosts?partition=nowhere", status: 200, has: `{"items":[]}`},
		{name: "hosts bad state", method: "GET", target: "/v1/hosts?state=DEAD", status: 400, code: "bad-request", field: "state", has: "AVAILABLE"},
		{name: "hosts bad labels", method: "GET", target: "/v1/hosts?labels=a+b", status: 400, code: "bad-request", field: "labels"},
		{name: "hosts bad sort", method: "GET", target: "/v1/hosts?sort=age", status: 400, code: "bad-request", field: "sort"},
		{name: "hosts bad limit", method: "GET", target: "/v1/hosts?limit=0", status: 400, code: "bad-request", field: "limit"},
		{name: "hosts bad cursor", method: "GET", target: "/v1/hosts?after=%25", status: 400, code: "bad-request", field: "after"},
		{name: "hosts misspelt parameter", method: "GET", target: "/v1/hosts?partiton=z1", status: 400, code: "bad-request", field: "partiton", has: "partition"},
		{name: "hosts bad watch", method: "GET", target: "/v1/hosts?watch=maybe", status: 400, code: "bad-request", field: "watch"},
		{name: "hosts method", method: "POST", target: "/v1/hosts", status: 405, code: "method-not-allowed"},
		{name: "host", method: "GET", target: "/v1/hosts/h-1", status: 200, has: `"revision":11`},
		{name: "host unknown", method: "GET", target: "/v1/hosts/h-9", status: 404, code: "not-found"},
		{name: "explain power", method: "GET", target: "/v1/hosts/h-1/power", status: 200, has: `"origin":"global"`},
		{name: "explain power of an unknown host", method: "GET", target: "/v1/hosts/h-9/power", status: 404, code: "not-found"},
		{name: "power profile", method: "GET", target: "/v1/power/profile?scope=zone/z1", status: 200, has: `"device.bmc.driver"`},
		{name: "power profile bad scope", method: "GET", target: "/v1/power/profile?scope=z1", status: 400, code: "bad-request", field: "scope"},
		{name: "change power profile", method: "PATCH", target: "/v1/power/profile?scope=zone/z1", body: `{"set":{"class":"slow"}}`, status: 200, has: `"changed":["h-1"]`, call: "ann@10.1.1.1: change power profile zone/z1"},
		{name: "change power profile dry", method: "PATCH", target: "/v1/power/profile?dryRun=true", body: `{"set":{"class":"slow"}}`, status: 200, has: `"changed"`},
		{name: "change power profile badly", method: "PATCH", target: "/v1/power/profile", body: `{"set":{"class":"lame"}}`, status: 400, code: "bad-request", field: "class", has: "slow"},
		{name: "change power profile bad body", method: "PATCH", target: "/v1/power/profile", body: `{"sett":{}}`, status: 400, code: "bad-request", field: "sett"},
		{name: "put host", method: "PUT", target: "/v1/hosts/h-1", body: put, headers: []string{"If-Match", `"11"`}, status: 200, has: `"revision":101`, call: "ann@10.1.1.1: put host h-1"},
		{name: "put host dry", method: "PUT", target: "/v1/hosts/h-1?dryRun=true", body: put, status: 200, has: `"revision":11`},
		{name: "put host conflict", method: "PUT", target: "/v1/hosts/h-1", body: put, headers: []string{"If-Match", `"10"`}, status: 412, code: "precondition-failed"},
		{name: "put host that exists", method: "PUT", target: "/v1/hosts/h-1", body: put, headers: []string{"If-None-Match", `*`}, status: 412, code: "precondition-failed"},
		{name: "put host bad etag", method: "PUT", target: "/v1/hosts/h-1", body: put, headers: []string{"If-Match", `x`}, status: 400, code: "bad-request", field: "If-Match"},
		{name: "put host other id", method: "PUT", target: "/v1/hosts/h-2", body: put, status: 400, code: "bad-request", field: "id"},
		{name: "put host unknown field", method: "PUT", target: "/v1/hosts/h-1", body: `{"partitoin":"z1"}`, status: 400, code: "bad-request", field: "partitoin"},
		{name: "put host wrong type", method: "PUT", target: "/v1/hosts/h-1", body: `{"labels":7}`, status: 400, code: "bad-request", field: "labels"},
		{name: "put host no body", method: "PUT", target: "/v1/hosts/h-1", status: 400, code: "bad-request", field: "body"},
		{name: "put host two bodies", method: "PUT", target: "/v1/hosts/h-1", body: put + put, status: 400, code: "bad-request", field: "body"},
		{name: "put host future version", method: "PUT", target: "/v1/hosts/h-1", body: `{"v":2,"partition":"z1"}`, status: 400, code: "bad-request", field: "v"},
		{name: "put host refused by backend", method: "PUT", target: "/v1/hosts/h-1", body: `{"id":"h-1"}`, status: 400, code: "bad-request", field: "partition"},
		{name: "put host too large", method: "PUT", target: "/v1/hosts/h-1", body: `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, status: 413, code: "too-large"},
		{name: "delete host", method: "DELETE", target: "/v1/hosts/h-1", status: 204, call: "ann@10.1.1.1: delete host h-1"},
		{name: "delete host dry", method: "DELETE", target: "/v1/hosts/h-1?dryRun=true", status: 200, has: `{"will":["ann@10.1.1.1: delete host h-1"]}`},
		{name: "delete host with a condition it does not know", method: "DELETE", target: "/v1/hosts/h-1", headers: []string{"If-None-Match", "*"}, status: 400, code: "bad-request", field: "If-None-Match"},
		{name: "maintenance with a condition it does not know", method: "POST", target: "/v1/hosts/h-1/maintenance", body: `{"on":true}`, headers: []string{"If-Match", `"11"`}, status: 400, code: "bad-request", field: "If-Match"},
		{name: "delete host conflict", method: "DELETE", target: "/v1/hosts/h-1", headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "explain host", method: "GET", target: "/v1/hosts/h-2/explain", status: 200, has: `"operatorMay"`},
		{name: "explain host unknown", method: "GET", target: "/v1/hosts/h-9/explain", status: 404, code: "not-found"},
		{name: "maintenance", method: "POST", target: "/v1/hosts/h-1/maintenance", body: `{"on":true,"reason":"fan"}`, status: 200, has: "INELIGIBLE", call: `ann@10.1.1.1: set host h-1 maintenance true "fan"`},
		{name: "maintenance with limit", method: "POST", target: "/v1/hosts/h-1/maintenance", body: `{"on":true,"for":"2h"}`, status: 400, code: "bad-request", field: "for"},
		{name: "host ha", method: "POST", target: "/v1/hosts/h-1/ha", body: `{"on":false}`, status: 200, call: `ann@10.1.1.1: set host h-1 ha false ""`},
		{name: "host enabled", method: "POST", target: "/v1/hosts/h-1/enabled", body: `{"on":false}`, status: 200, call: `ann@10.1.1.1: set host h-1 enabled false ""`},
		{name: "host enabled unknown", method: "POST", target: "/v1/hosts/h-9/enabled", body: `{"on":false}`, status: 404, code: "not-found"},
		{name: "order", method: "POST", target: "/v1/hosts/h-1/orders", body: `{"verb":"off","reason":"smoke"}`, status: 200, has: "on record", call: `ann@10.1.1.1: order off h-1 "smoke" ""`},
		{name: "order dry", method: "POST", target: "/v1/hosts/h-1/orders?dryRun=true", body: `{"verb":"off"}`, status: 200, has: `"will"`},
		{name: "order bad verb", method: "POST", target: "/v1/hosts/h-1/orders", body: `{"verb":"kick"}`, status: 400, code: "bad-request", field: "verb"},
		{name: "order refused", method: "POST", target: "/v1/hosts/h-1/orders", body: `{"verb":"confirm-off"}`, status: 422, code: "refused"},
		{name: "order conflict", method: "POST", target: "/v1/hosts/h-1/orders", body: `{"verb":"retry"}`, status: 409, code: "conflict"},
		{name: "order unknown host", method: "POST", target: "/v1/hosts/h-9/orders", body: `{"verb":"on"}`, status: 404, code: "not-found"},
		{name: "secret", method: "GET", target: "/v1/hosts/h-1/devices/bmc/secret", status: 200, has: `"ref":"file:/secrets/h-1","set":false`},
		{name: "secret of no device", method: "GET", target: "/v1/hosts/h-1/devices/pdu/secret", status: 404, code: "not-found"},
		{name: "put secret", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"user":"op","password":"canary"}`, headers: []string{"If-None-Match", "*"}, status: 200, has: `worker w-2 does not answer, it may lack key k2`, call: `ann@10.1.1.1: put secret h-1/bmc "op" 6 bytes, no test false`},
		{name: "put secret untested", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"password":"wrong","noTest":true}`, status: 200, has: `"set":true`, call: `ann@10.1.1.1: put secret h-1/bmc "" 5 bytes, no test true`},
		{name: "put secret that fails its test", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"password":"wrong"}`, status: 422, code: "refused"},
		{name: "put secret conflict", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"password":"canary"}`, headers: []string{"If-Match", `"9"`}, status: 412, code: "precondition-failed"},
		{name: "put secret empty", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"password":""}`, status: 400, code: "bad-request", field: "password"},
		{name: "put secret unknown field", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"passwort":"canary"}`, status: 400, code: "bad-request", field: "body"},
		{name: "put secret no string", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"password":4711}`, status: 400, code: "bad-request", field: "body"},
		{name: "put secret no json", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `canary`, status: 400, code: "bad-request", field: "body"},
		{name: "put secret two bodies", method: "PUT", target: "/v1/hosts/h-1/devices/bmc/secret", body: `{"password":"canary"}{}`, status: 400, code: "bad-request", field: "body"},
		{name: "delete secret", method: "DELETE", target: "/v1/hosts/h-3/devices/bmc/secret", headers: []string{"If-Match", `"42"`}, status: 204, call: "ann@10.1.1.1: delete secret h-3/bmc"},
		{name: "delete secret conflict", method: "DELETE", target: "/v1/hosts/h-3/devices/bmc/secret", headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "delete no secret", method: "DELETE", target: "/v1/hosts/h-1/devices/bmc/secret", status: 404, code: "not-found"},
		{name: "whoami", method: "GET", target: "/v1/auth/whoami", status: 200, has: `{"name":"ann","role":"admin","by":"loopback"}`},
		{name: "tokens", method: "GET", target: "/v1/auth/tokens", status: 200, has: `"id":"t1"`},
		{name: "create token", method: "POST", target: "/v1/auth/tokens", body: `{"name":"ci","role":"viewer"}`, status: 200, has: `"by":"ann@10.1.1.1"`},
		{name: "create token badly", method: "POST", target: "/v1/auth/tokens", body: `{"rolle":"viewer"}`, status: 400, code: "bad-request", field: "rolle"},
		{name: "revoke token", method: "DELETE", target: "/v1/auth/tokens/t1?reason=x", status: 204},
		{name: "revoke no token", method: "DELETE", target: "/v1/auth/tokens/t9", status: 404, code: "not-found"},
		{name: "join tokens", method: "GET", target: "/v1/join-tokens", status: 200, has: `"id":"t1"`},
		{name: "create join token", method: "POST", target: "/v1/join-tokens", body: `{"host":"h-1"}`, status: 200, has: `"host":"h-1"`},
		{name: "revoke join token", method: "DELETE", target: "/v1/join-tokens/t1", status: 204},
		{name: "authorities", method: "GET", target: "/v1/authorities", status: 200, has: `"id":"t1"`},
		{name: "create authority", method: "POST", target: "/v1/authorities", body: `{}`, status: 200, has: `"id":"t2"`},
		{name: "retire authority", method: "DELETE", target: "/v1/authorities/t1?force=true", status: 204},
		{name: "retire authority badly", method: "DELETE", target: "/v1/authorities/t1?force=maybe", status: 400, code: "bad-request", field: "force"},
		{name: "certificates", method: "GET", target: "/v1/certificates?host=h-1", status: 200, has: `"identity":"host/h-1"`},
		{name: "revoke certificates", method: "POST", target: "/v1/certificates/revoke", body: `{"serials":["1f"]}`, status: 200, has: `"serial":"1f"`},
		{name: "incident", method: "GET", target: "/v1/incidents/i-1", status: 200, has: `"outcome":"fenced with A3"`},
		{name: "explain incident", method: "GET", target: "/v1/incidents/i-2/explain", status: 200, has: `"whyNot":["guard armed holds`},
		{name: "explain incident unknown", method: "GET", target: "/v1/incidents/i-9/explain", status: 404, code: "not-found"},
		{name: "export incident", method: "GET", target: "/v1/incidents/i-1/export", status: 200, has: `"format":"holdfast-incident"`},
		{name: "export incident unknown", method: "GET", target: "/v1/incidents/i-9/export", status: 404, code: "not-found"},
		{name: "audit", method: "GET", target: "/v1/audit?host=h-1", status: 200, has: `"host":"h-1"`},
		{name: "audit bad limit", method: "GET", target: "/v1/audit?limit=x", status: 400, code: "bad-request", field: "limit"},
		{name: "secrets", method: "GET", target: "/v1/secrets", status: 200, has: `"device":"bmc","ref":"sealed","set":true,"key":"k1"`},
		{name: "reseal", method: "POST", target: "/v1/secrets/reseal", body: `{"force":true}`, status: 200, has: `"done":["h-2/bmc"],"left":0`, call: "ann@10.1.1.1: reseal h-2/bmc"},
		{name: "reseal dry", method: "POST", target: "/v1/secrets/reseal?dryRun=true", body: `{"force":true}`, status: 200, has: `"left":1`},
		{name: "reseal under a key that a worker may lack", method: "POST", target: "/v1/secrets/reseal", body: `{}`, status: 422, code: "refused", has: "worker w-2 does not answer"},
		{name: "reseal too many", method: "POST", target: "/v1/secrets/reseal", body: `{"limit":501}`, status: 400, code: "bad-request", field: "limit"},
		{name: "areas", method: "GET", target: "/v1/areas", status: 200, has: `"area":"rack/z1/7","state":"STORM"`},
		{name: "area", method: "GET", target: "/v1/areas/rack/z1/7", status: 200, has: `"host":"h-2"`},
		{name: "area unknown", method: "GET", target: "/v1/areas/rack/z1/9", status: 404, code: "not-found"},
		{name: "budgets", method: "GET", target: "/v1/budgets", status: 200, has: `"latched":true`},
		{name: "budgets of a scope", method: "GET", target: "/v1/budgets?scope=cluster/z1/p1/c1", status: 200, has: `[{"scope":"cluster/z1/p1/c1","used":3`},
		{name: "budgets bad scope", method: "GET", target: "/v1/budgets?scope=global", status: 400, code: "bad-request", field: "scope"},
		{name: "reset budget", method: "POST", target: "/v1/budgets/cluster/z1/p1/c1:reset", body: `{"reason":"looked at"}`, status: 200, has: `"used":0`, call: `ann@10.1.1.1: reset cluster/z1/p1/c1 "looked at"`},
		{name: "reset budget without a reason", method: "POST", target: "/v1/budgets/zone/z1:reset", body: `{"reason":" "}`, status: 400, code: "bad-request", field: "reason"},
		{name: "reset budget with slots", method: "POST", target: "/v1/budgets/zone/z1:reset", body: `{"reason":"x","extra":2}`, status: 400, code: "bad-request", field: "extra"},
		{name: "grant budget", method: "POST", target: "/v1/budgets/zone/z1:grant", body: `{"reason":"test","extra":5,"for":"4h"}`, status: 200, has: `"limit":25`, call: `ann@10.1.1.1: grant zone/z1 5 for 4h "test"`},
		{name: "grant budget for ever", method: "POST", target: "/v1/budgets/zone/z1:grant", body: `{"reason":"test","extra":5}`, status: 400, code: "bad-request", field: "for", has: "720h"},
		{name: "grant budget nothing", method: "POST", target: "/v1/budgets/zone/z1:grant", body: `{"reason":"test","for":"4h"}`, status: 400, code: "bad-request", field: "extra"},
		{name: "grant budget unknown", method: "POST", target: "/v1/budgets/zone/z9:grant", body: `{"reason":"test","extra":5,"for":"4h"}`, status: 404, code: "not-found"},
		{name: "partitions", method: "GET", target: "/v1/partitions", status: 200, has: `"path":"z1/p1/c1"`},
		{name: "partition", method: "GET", target: "/v1/partitions/z1/p1/c1", status: 200, has: `"revision":22`},
		{name: "partition unknown", method: "GET", target: "/v1/partitions/z9", status: 404, code: "not-found"},
		{name: "put partition", method: "PUT", target: "/v1/partitions/z1/p2", body: `{}`, headers: []string{"If-None-Match", "*"}, status: 200, call: "ann@10.1.1.1: put partition z1/p2"},
		{name: "put partition conflict", method: "PUT", target: "/v1/partitions/z1", body: `{}`, headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "put partition other path", method: "PUT", target: "/v1/partitions/z1", body: `{"path":"z2"}`, status: 400, code: "bad-request", field: "path"},
		{name: "explain partition", method: "GET", target: "/v1/partitions/z1/p1/c1:explain", status: 200, has: "partition z1/p1/c1"},
		{name: "partition ha", method: "POST", target: "/v1/partitions/z1/p1/c1:ha", body: `{"on":false}`, status: 200, call: `ann@10.1.1.1: set partition z1/p1/c1 ha false ""`},
		{name: "partition enabled", method: "POST", target: "/v1/partitions/z1:enabled", body: `{"on":true}`, status: 200, call: `ann@10.1.1.1: set partition z1 enabled true ""`},
		{name: "partition without verb", method: "POST", target: "/v1/partitions/z1", body: `{"on":true}`, status: 405, code: "method-not-allowed"},
		{name: "pools", method: "GET", target: "/v1/pools", status: 200, has: `"id":"p-1"`},
		{name: "pool", method: "GET", target: "/v1/pools/p-1", status: 200, has: `"id":"p-1"`},
		{name: "pool unknown", method: "GET", target: "/v1/pools/x", status: 404, code: "not-found"},
		{name: "put pool", method: "PUT", target: "/v1/pools/p-1?force=true", body: `{"id":"p-1","type":"nfs","role":"primary"}`, status: 200, has: `"revision":101`, call: "ann@10.1.1.1: put pool p-1 force=true"},
		{name: "put pool other id", method: "PUT", target: "/v1/pools/x", body: `{"id":"p-1","type":"nfs","role":"primary"}`, status: 400, code: "bad-request", field: "id"},
		{name: "put pool conflict", method: "PUT", target: "/v1/pools/p-1", body: `{"id":"p-1","type":"nfs","role":"primary"}`, headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "put pool unknown field", method: "PUT", target: "/v1/pools/p-1", body: `{"nope":1}`, status: 400, code: "bad-request", field: "nope"},
		{name: "delete pool", method: "DELETE", target: "/v1/pools/p-1", status: 204, call: "ann@10.1.1.1: delete pool p-1"},
		{name: "volumes", method: "GET", target: "/v1/volumes", status: 200, has: `"id":"v-1"`},
		{name: "volume", method: "GET", target: "/v1/volumes/v-1", status: 200, has: `"id":"v-1"`},
		{name: "volume unknown", method: "GET", target: "/v1/volumes/x", status: 404, code: "not-found"},
		{name: "put volume", method: "PUT", target: "/v1/volumes/v-1?force=true", body: `{"id":"v-1","pool":"p-1","path":"v-1.raw","format":"raw","size":1}`, status: 200, has: `"revision":101`, call: "ann@10.1.1.1: put volume v-1 force=true"},
		{name: "put volume other id", method: "PUT", target: "/v1/volumes/x", body: `{"id":"v-1","pool":"p-1","path":"v-1.raw","format":"raw","size":1}`, status: 400, code: "bad-request", field: "id"},
		{name: "put volume conflict", method: "PUT", target: "/v1/volumes/v-1", body: `{"id":"v-1","pool":"p-1","path":"v-1.raw","format":"raw","size":1}`, headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "put volume unknown field", method: "PUT", target: "/v1/volumes/v-1", body: `{"nope":1}`, status: 400, code: "bad-request", field: "nope"},
		{name: "delete volume", method: "DELETE", target: "/v1/volumes/v-1", status: 204, call: "ann@10.1.1.1: delete volume v-1"},
		{name: "templates", method: "GET", target: "/v1/templates", status: 200, has: `"id":"t-1"`},
		{name: "template", method: "GET", target: "/v1/templates/t-1", status: 200, has: `"id":"t-1"`},
		{name: "template unknown", method: "GET", target: "/v1/templates/x", status: 404, code: "not-found"},
		{name: "put template", method: "PUT", target: "/v1/templates/t-1?force=true", body: `{"id":"t-1","format":"raw","size":1,"copies":[{"pool":"p-1","path":"t-1.raw"}]}`, status: 200, has: `"revision":101`, call: "ann@10.1.1.1: put template t-1 force=true"},
		{name: "put template other id", method: "PUT", target: "/v1/templates/x", body: `{"id":"t-1","format":"raw","size":1,"copies":[{"pool":"p-1","path":"t-1.raw"}]}`, status: 400, code: "bad-request", field: "id"},
		{name: "put template conflict", method: "PUT", target: "/v1/templates/t-1", body: `{"id":"t-1","format":"raw","size":1,"copies":[{"pool":"p-1","path":"t-1.raw"}]}`, headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "put template unknown field", method: "PUT", target: "/v1/templates/t-1", body: `{"nope":1}`, status: 400, code: "bad-request", field: "nope"},
		{name: "delete template", method: "DELETE", target: "/v1/templates/t-1", status: 204, call: "ann@10.1.1.1: delete template t-1"},
		{name: "instances", method: "GET", target: "/v1/instances", status: 200, has: `"id":"i-1"`},
		{name: "instance", method: "GET", target: "/v1/instances/i-1", status: 200, has: `"id":"i-1"`},
		{name: "instance unknown", method: "GET", target: "/v1/instances/x", status: 404, code: "not-found"},
		{name: "put instance", method: "PUT", target: "/v1/instances/i-1?force=true", body: `{"id":"i-1","host":"h-1","memoryMiB":1,"cpus":1,"volumes":["v-1"],"state":"stopped","ha":false}`, status: 200, has: `"revision":101`, call: "ann@10.1.1.1: put instance i-1 force=true"},
		{name: "put instance other id", method: "PUT", target: "/v1/instances/x", body: `{"id":"i-1","host":"h-1","memoryMiB":1,"cpus":1,"volumes":["v-1"],"state":"stopped","ha":false}`, status: 400, code: "bad-request", field: "id"},
		{name: "put instance conflict", method: "PUT", target: "/v1/instances/i-1", body: `{"id":"i-1","host":"h-1","memoryMiB":1,"cpus":1,"volumes":["v-1"],"state":"stopped","ha":false}`, headers: []string{"If-Match", `"1"`}, status: 412, code: "precondition-failed"},
		{name: "put instance unknown field", method: "PUT", target: "/v1/instances/i-1", body: `{"nope":1}`, status: 400, code: "bad-request", field: "nope"},
		{name: "delete instance", method: "DELETE", target: "/v1/instances/i-1", status: 204, call: "ann@10.1.1.1: delete instance i-1"},
		{name: "commands", method: "GET", target: "/v1/commands?host=h-1&state=processing&open=true", status: 200, has: `"id":"c-1"`},
		{name: "commands bad state", method: "GET", target: "/v1/commands?state=lost", status: 400, code: "bad-request", field: "state", has: "NEEDS_OPERATOR"},
		{name: "new command", method: "POST", target: "/v1/commands", body: `{"kind":"migrate-volume","volume":"v-1","pool":"p-2"}`, status: 200, has: `"state":"PENDING"`, call: "ann@10.1.1.1: command migrate-volume v-1 to p-2 force=false"},
		{name: "new command bad kind", method: "POST", target: "/v1/commands", body: `{"kind":"teleport"}`, status: 400, code: "bad-request", field: "kind", has: "copy, migrate, migrate-volume"},
		{name: "command", method: "GET", target: "/v1/commands/c-1", status: 200, has: `"reason":"copying"`},
		{name: "command unknown", method: "GET", target: "/v1/commands/c-9", status: 404, code: "not-found"},
		{name: "explain command", method: "GET", target: "/v1/commands/c-1/explain", status: 200, has: `"why":["copying"]`},
		{name: "cancel command", method: "POST", target: "/v1/commands/c-1/cancel", body: `{"reason":"x"}`, status: 200, call: "ann@10.1.1.1: cancel command c-1"},
		{name: "cancel command with an outcome", method: "POST", target: "/v1/commands/c-1/cancel", body: `{"completed":true}`, status: 400, code: "bad-request", field: "completed"},
		{name: "reconcile command", method: "POST", target: "/v1/commands/c-1/reconcile", body: `{}`, status: 200, call: "ann@10.1.1.1: reconcile command c-1"},
		{name: "resolve command", method: "POST", target: "/v1/commands/c-1/resolve", body: `{"completed":false}`, status: 200, call: "ann@10.1.1.1: resolve command c-1"},
		{name: "resolve command without an outcome", method: "POST", target: "/v1/commands/c-1/resolve", body: `{}`, status: 400, code: "bad-request", field: "completed"},
		{name: "workers", method: "GET", target: "/v1/workers", status: 200, has: `"id":"w-2"`},
		{name: "worker", method: "GET", target: "/v1/workers/w-1", status: 200, has: `"answers":"yes","links":2,"standby":1,"leaseLeft":"4.2s"`},
		{name: "worker unknown", method: "GET", target: "/v1/workers/w-9", status: 404, code: "not-found"},
		{name: "drain", method: "POST", target: "/v1/workers/w-1/drain", body: `{"reason":"new kernel"}`, status: 200, has: `"by":"ann@10.1.1.1"`, call: `ann@10.1.1.1: drain worker w-1 true "new kernel" false`},
		{name: "drain dry", method: "POST", target: "/v1/workers/w-1/drain?dryRun=true", body: `{}`, status: 200, has: `"moves":512,"hostsMoved":2`},
		{name: "drain without body", method: "POST", target: "/v1/workers/w-1/drain", status: 400, code: "bad-request", field: "body"},
		{name: "drain unknown", method: "POST", target: "/v1/workers/w-9/drain", body: `{}`, status: 404, code: "not-found"},
		{name: "drain dry unknown", method: "POST", target: "/v1/workers/w-9/drain?dryRun=true", body: `{}`, status: 404, code: "not-found"},
		{name: "drain method", method: "GET", target: "/v1/workers/w-1/drain", status: 405, code: "method-not-allowed"},
		{name: "undrain", method: "POST", target: "/v1/workers/w-1/undrain", body: `{}`, status: 200, has: `"state":"ready"`, call: `ann@10.1.1.1: drain worker w-1 false "" false`},
		{name: "undrain dry", method: "POST", target: "/v1/workers/w-2/undrain?dryRun=true", body: `{}`, status: 200, has: `"moves":256`},
		{name: "agents", method: "GET", target: "/v1/agents?algorithm=static", status: 200, has: `"algorithm":"static"`},
		{name: "agents by chance", method: "GET", target: "/v1/agents?algorithm=random", status: 400, code: "bad-request", field: "algorithm", has: "roundrobin"},
		{name: "rebalance", method: "POST", target: "/v1/hosts/h-1/rebalance", status: 200, has: `"host":"h-1"`},
		{name: "rebalance unknown", method: "POST", target: "/v1/hosts/h-99/rebalance", status: 404, code: "not-found"},
		{name: "plan", method: "GET", target: "/v1/plan", status: 200, has: `"targets":[]`},
		{name: "plan of many", method: "GET", target: "/v1/plan?without=w-1&add=w-8:z1&add=w-9:z1:3", status: 200, has: `{"id":"w-9","zone":"z1","weight":3`},
		{name: "plan unknown", method: "GET", target: "/v1/plan?without=w-7", status: 404, code: "not-found"},
		{name: "plan without nobody", method: "GET", target: "/v1/plan?without=", status: 400, code: "bad-request", field: "without"},
		{name: "plan bad weight", method: "GET", target: "/v1/plan?add=w-9:z1:101", status: 400, code: "bad-request", field: "add", has: "1 to 100"},
		{name: "plan bad worker", method: "GET", target: "/v1/plan?add=:z1", status: 400, code: "bad-request", field: "add"},
		{name: "plan too much", method: "GET", target: "/v1/plan?add=w:z:1:2", status: 400, code: "bad-request", field: "add"},
		{name: "incidents", method: "GET", target: "/v1/incidents?host=h-3", status: 200, has: `"id":"i-1"`},
		{name: "incident", method: "GET", target: "/v1/incidents/i-2", status: 200, has: `"ledger"`},
		{name: "incident unknown", method: "GET", target: "/v1/incidents/x", status: 404, code: "not-found"},
		{name: "events", method: "GET", target: "/v1/events?after=90", status: 200, has: `"id":"e-3"`},
		{name: "events bad revision", method: "GET", target: "/v1/events?after=-1", status: 400, code: "bad-request", field: "after"},
		{name: "events bad since", method: "GET", target: "/v1/events?since=yesterday", status: 400, code: "bad-request", field: "since"},
		{name: "events bad severity", method: "GET", target: "/v1/events?severity=loud", status: 400, code: "bad-request", field: "severity", has: "page"},
		{name: "settings", method: "GET", target: "/v1/settings?scope=host/h-1", status: 200, has: `"ha.policy"`},
		{name: "settings bad scope", method: "GET", target: "/v1/settings?scope=rack/7", status: 400, code: "bad-request", field: "scope"},
		{name: "setting", method: "GET", target: "/v1/settings/ha.policy?scope=zone/z1", status: 200, has: `"name":"ha.policy"`},
		{name: "setting unknown", method: "GET", target: "/v1/settings/nope", status: 404, code: "not-found"},
		{name: "put setting that is there", method: "PUT", target: "/v1/settings/ha.policy", body: `{"value":"observe"}`, headers: []string{"If-Match", `"7"`}, status: 412, code: "precondition-failed"},
		{name: "settings in pages", method: "GET", target: "/v1/settings?limit=1", status: 200, has: `"next":"`},
		{name: "settings after one that is gone", method: "GET", target: "/v1/settings?after=eA", status: 410, code: "compacted"},
		{name: "openapi", method: "GET", target: "/openapi.json", status: 200, has: `"openapi":"3.1.0"`},
		{name: "put setting", method: "PUT", target: "/v1/settings/ha.policy?scope=zone/z1", body: `{"value":"observe","for":"2h"}`, status: 200, call: `ann@10.1.1.1: put setting zone/z1 ha.policy=observe ""`},
		{name: "put setting dry", method: "PUT", target: "/v1/settings/ha.policy?dryRun=true", body: `{"value":"observe"}`, status: 200, has: "observe"},
		{name: "put setting bad value", method: "PUT", target: "/v1/settings/ha.policy", body: `{"value":"kill"}`, status: 400, code: "bad-request", field: "value", has: "observe, recover, fence"},
		{name: "put setting bad duration", method: "PUT", target: "/v1/settings/ha.policy", body: `{"value":"observe","for":"soon"}`, status: 400, code: "bad-request", field: "for"},
		{name: "put setting unknown", method: "PUT", target: "/v1/settings/nope", body: `{"value":"1"}`, status: 404, code: "not-found"},
		{name: "delete setting", method: "DELETE", target: "/v1/settings/ha.policy?reason=done", status: 200, has: "recover", call: `ann@10.1.1.1: delete setting global ha.policy "done"`},
		{name: "arm", method: "POST", target: "/v1/ha/arm", body: `{"scope":"zone/z1"}`, status: 200, call: `ann@10.1.1.1: arm zone/z1 true "" ""`},
		{name: "arm with limit", method: "POST", target: "/v1/ha/arm", body: `{"for":"2h"}`, status: 400, code: "bad-request", field: "for"},
		{name: "disarm", method: "POST", target: "/v1/ha/disarm", body: `{"for":"2h","reason":"switches"}`, status: 200, call: `ann@10.1.1.1: arm global false "2h" "switches"`},
		{name: "disarm bad limit", method: "POST", target: "/v1/ha/disarm", body: `{"for":"-2h"}`, status: 400, code: "bad-request", field: "for"},
		{name: "allocate", method: "GET", target: "/v1/allocate?ha=true", status: 200, has: `"host":"h-1"`},
		{name: "allocate bad flag", method: "GET", target: "/v1/allocate?ha=yes", status: 400, code: "bad-request", field: "ha"},
		{name: "version", method: "GET", target: "/v1/version", status: 200, has: `"version":"1.2"`},
		{name: "generation plan", method: "POST", target: "/v1/etcd/generation?dryRun=true", body: `{}`, status: 200, has: `"from":1,"to":2`},
		{name: "generation", method: "POST", target: "/v1/etcd/generation", body: `{"from":1,"reason":"restored"}`, status: 200, has: `"to":2`, call: `ann@10.1.1.1: raise generation to 2 "restored"`},
		{name: "health", method: "GET", target: "/v1/health", status: 200, has: `"ready":true`},
		{name: "hooks", method: "GET", target: "/v1/hooks", status: 200, has: `"name":"k1"`},
		{name: "hook", method: "GET", target: "/v1/hooks/k1", status: 200, has: `"state":"delivering"`},
		{name: "no hook", method: "GET", target: "/v1/hooks/k9", status: 404, code: "not-found"},
		{name: "put hook", method: "PUT", target: "/v1/hooks/k2", body: `{"kind":"webhook","url":"https://r.example/s3cret","key":"0123456789abcdef"}`, headers: []string{"If-None-Match", "*"}, status: 200, has: `"target":"https://r.example"`},
		{name: "put hook that is there", method: "PUT", target: "/v1/hooks/k1", body: `{"kind":"exec","target":"/bin/true"}`, headers: []string{"If-None-Match", "*"}, status: 412, code: "precondition-failed"},
		{name: "put hook of no kind", method: "PUT", target: "/v1/hooks/k2", body: `{"kind":"mail"}`, status: 400, code: "bad-request", field: "kind"},
		{name: "put hook bad body", method: "PUT", target: "/v1/hooks/k2", body: `{"types":"host"}`, status: 400, code: "bad-request", field: "body"},
		{name: "enable hook", method: "POST", target: "/v1/hooks/k1/enabled", body: `{"on":false}`, status: 200, has: `"state":"off"`},
		{name: "test hook", method: "POST", target: "/v1/hooks/k1/test", status: 200, has: `"ok":true`},
		{name: "delete hook", method: "DELETE", target: "/v1/hooks/k1", status: 204},
		{name: "delete no hook", method: "DELETE", target: "/v1/hooks/k9", status: 404, code: "not-found"},
		{name: "support", method: "GET", target: "/v1/workers/w-1/support?goroutines=true", status: 200, has: `goroutine profile`},
		{name: "support of nobody", method: "GET", target: "/v1/workers/w-9/support", status: 404, code: "not-found"},
		{name: "records", method: "GET", target: "/v1/records?kind=hosts", status: 200, has: `"/holdfast/v1/hosts/x"`},
		{name: "records of no kind", method: "GET", target: "/v1/records?kind=nothing", status: 400, code: "bad-request", field: "kind"},
		{name: "healthz", method: "GET", target: "/healthz", status: 200, has: "ok"},
		{name: "readyz", method: "GET", target: "/readyz", status: 200, has: "ready"},
		{name: "metrics", method: "GET", target: "/metrics", status: 200, has: "holdfast_up 1"},
		{name: "no such path", method: "GET", target: "/v2/hosts", status: 404, code: "not-found"},
		{name: "head", method: "HEAD", target: "/v1/hosts/h-1", status: 200},
	}
}

// served is a handler for one test, and the fleet behind it.
func served() (*apitest.Fleet, http.Handler) {
	f := apitest.NewFleet()
	return f, api.NewHandler(f, api.HandlerOptions{Keeper: &apitest.Keeper{}, Hooks: apitest.NewHooks(), Support: apitest.Support{}, Version: "1.2", Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "holdfast_up 1\n") })})
}

// TestRoutes proves for each route: the good answer, and that bad input, unknown things,
// conflicts and refusals come as problems with a code and the wrong field.
func TestRoutes(t *testing.T) {
	covered := map[string]bool{}
	for _, c := range routeCases() {
		t.Run(c.name, func(t *testing.T) {
			f, h := served()
			w := ask(h, c.method, c.target, c.body, append(c.headers, v1.ActorHeader, "ann")...)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			if c.code != "" {
				var p v1.Problem
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
					t.Fatalf("no problem: %v: %s", err, w.Body)
				}
				if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
					t.Errorf("content type %q", got)
				}
				if p.Code != c.code || p.Field != c.field || p.Status != c.status || p.Detail == "" || p.Title == "" || p.Type == "" {
					t.Errorf("problem %+v, want code %q, field %q", p, c.code, c.field)
				}
				if got := f.Noted(); len(got) > 0 {
					t.Errorf("something was written: %v", got)
				}
			}
			if !strings.Contains(w.Body.String(), c.has) {
				t.Errorf("body lacks %q: %s", c.has, w.Body)
			}
			var want []string
			if c.call != "" {
				want = []string{c.call}
			}
			if d := cmp.Diff(want, f.Noted(), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("writes (-want +got):\n%s", d)
			}
		})
		if c.status < 300 {
			path, _, _ := strings.Cut(c.target, "?")
			covered[c.method+" "+path] = true
		}
	}
	// Every route of the table has at least one good answer above.
	for _, r := range api.Routes {
		ok := false
		for got := range covered {
			method, path, _ := strings.Cut(got, " ")
			ok = ok || method == r.Method && matches(r.Path, path)
		}
		if !ok {
			t.Errorf("route %s %s has no good case", r.Method, r.Path)
		}
	}
}

// matches compares a path with a route's.
func matches(route, path string) bool {
	if base, verb, ok := strings.Cut(route, "}:"); ok {
		if route, ok = base+"}", strings.HasSuffix(path, ":"+verb); !ok {
			return false
		}
		path = strings.TrimSuffix(path, ":"+verb)
	} else if strings.Contains(path, ":") {
		return false
	}
	a, b := strings.Split(route, "/"), strings.Split(path, "/")
	for i, part := range a {
		if part == "{path...}" {
			return len(b) > i
		}
		if i >= len(b) || part != b[i] && !strings.HasPrefix(part, "{") {
			return false
		}
	}
	return len(a) == len(b)
}

// TestLastReadyWorkerStays proves that the refusal of the last drain reaches the caller,
// in the dry run too, and that force overrides it.
func TestLastReadyWorkerStays(t *testing.T) {
	f := apitest.NewFleet()
	h := api.NewHandler(f, api.HandlerOptions{})
	f.ChangeWorker("w-2", func(w *v1.Worker) { w.State = "draining" })
	for _, target := range []string{"/v1/workers/w-1/drain", "/v1/workers/w-1/drain?dryRun=true"} {
		if w := ask(h, "POST", target, `{}`); w.Code != 422 || !strings.Contains(w.Body.String(), "last that is ready") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	if got := f.Noted(); len(got) > 0 {
		t.Errorf("drained: %v", got)
	}
	if w := ask(h, "POST", "/v1/workers/w-1/drain", `{"force":true}`); w.Code != 200 {
		t.Errorf("forced: %d %s", w.Code, w.Body)
	}
}

// TestETagIsRevision proves that an answer's ETag is what If-Match takes.
func TestETagIsRevision(t *testing.T) {
	h := api.NewHandler(apitest.NewFleet(), api.HandlerOptions{})
	tag := ask(h, "GET", "/v1/hosts/h-1", "").Header().Get("ETag")
	if tag != `"11"` {
		t.Fatalf("ETag %s", tag)
	}
	w := ask(h, "PUT", "/v1/hosts/h-1", `{"partition":"z1"}`, "If-Match", tag)
	if w.Code != 200 || w.Header().Get("ETag") != `"101"` {
		t.Fatalf("status %d, ETag %s", w.Code, w.Header().Get("ETag"))
	}
	if w := ask(h, "PUT", "/v1/hosts/h-1", `{"partition":"z1"}`, "If-Match", tag); w.Code != 412 || w.Header().Get("ETag") != `"101"` {
		t.Fatalf("the same ETag again: status %d", w.Code)
	}
}

// TestPages proves that pages follow each other without gap or repeat, in each order,
// and that a host that goes away between two pages disturbs nothing.
func TestPages(t *testing.T) {
	for _, sort := range []string{"", "state", "-since", "-id", "owner"} {
		f := apitest.NewFleet()
		h := api.NewHandler(f, api.HandlerOptions{})
		var got []string
		for target := "/v1/hosts?limit=1&sort=" + sort; target != ""; {
			var l v1.List[v1.Host]
			if err := json.Unmarshal(ask(h, "GET", target, "").Body.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			got = append(got, l.Items[0].Spec.ID)
			if len(got) == 2 {
				f.Mu.Lock()
				delete(f.HostMap, got[1])
				f.Mu.Unlock()
			}
			target = ""
			if l.Next != "" {
				target = "/v1/hosts?limit=1&sort=" + sort + "&after=" + l.Next
			}
		}
		want := slices.Clone(got)
		slices.Sort(want)
		if d := cmp.Diff([]string{"h-1", "h-10", "h-2", "h-3"}, want); d != "" {
			t.Errorf("sort %q: %s", sort, d)
		}
	}
}

// TestEventPageEndsWithARevision proves that a page never cuts a transaction in two.
func TestEventPageEndsWithARevision(t *testing.T) {
	h := api.NewHandler(apitest.NewFleet(), api.HandlerOptions{})
	var l v1.List[v1.Event]
	if err := json.Unmarshal(ask(h, "GET", "/v1/events?limit=2", "").Body.Bytes(), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.Items) != 3 || l.Next != "" {
		t.Fatalf("%d events, next %q", len(l.Items), l.Next)
	}
	if err := json.Unmarshal(ask(h, "GET", "/v1/events?limit=1", "").Body.Bytes(), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.Items) != 1 || l.Next != "90" {
		t.Fatalf("%d events, next %q", len(l.Items), l.Next)
	}
}

// TestNotReady proves that /readyz and /v1/health tell why.
func TestNotReady(t *testing.T) {
	f := apitest.NewFleet()
	f.NotReady = errors.New("not synced")
	f.Warnings = []api.Warning{{Code: "EtcdStale", Severity: "critical", Text: "old"}}
	h := api.NewHandler(f, api.HandlerOptions{})
	if w := ask(h, "GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), "not synced") {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "GET", "/v1/health", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"ready":false,"reason":"not synced","warnings":[{"code":"EtcdStale"`) {
		t.Errorf("health: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "GET", "/metrics", ""); w.Code != 404 {
		t.Errorf("metrics: %d", w.Code)
	}
}

// broken is a backend with a fault in two of its answers.
type broken struct{ *apitest.Fleet }

func (broken) Workers(context.Context) ([]v1.Worker, error) { panic("a bug") }

func (broken) Partitions(context.Context) ([]v1.Partition, error) {
	return nil, errors.New("decode partition: unexpected end")
}

// TestFaultsAreProblems proves that a panic or a plain error of the backend ends as a
// Problem, and that the handler goes on.
func TestFaultsAreProblems(t *testing.T) {
	h := api.NewHandler(broken{apitest.NewFleet()}, api.HandlerOptions{})
	for _, path := range []string{"/v1/workers", "/v1/partitions", "/v1/workers"} {
		w := ask(h, "GET", path, "")
		var p v1.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != 500 || p.Code != v1.CodeInternal {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestReference proves that the generated reference names every route and type.
func TestReference(t *testing.T) {
	text := api.RoutesMarkdown()
	for _, r := range api.Routes {
		if !strings.Contains(text, "| "+r.Method+" | `"+r.Path+"` |") {
			t.Errorf("%s %s is missing", r.Method, r.Path)
		}
	}
	for _, want := range []string{"### Host\n", "### Hold\n", "### SettingRequest\n", "list of [GuardAnswer](#guardanswer)"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if text != api.RoutesMarkdown() {
		t.Error("the reference is not always the same")
	}
}
