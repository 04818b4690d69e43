// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// object is a JSON object; encoding sorts its fields, so that the document is always the
// same.
type object = map[string]any

// plainText are the routes that answer no JSON of ours, with what they answer.
var plainText = map[string]string{"/healthz": "text/plain", "/readyz": "text/plain", "/metrics": "text/plain", "/openapi.json": "application/json"}

// closed are the fields that a request may give these values only; the server refuses
// others by name.
var closed = map[string][]string{
	"OrderRequest.verb": v1.OrderVerbs, "CommandRequest.kind": v1.CommandKinds,
	"Pool.type": v1.PoolTypes, "Pool.role": v1.PoolRoles, "Volume.format": v1.Formats, "Template.format": v1.Formats, "Instance.state": v1.InstanceStates,
	"TokenRequest.role": names(v1.Roles), "Problem.code": codes(),
}

func names(roles []v1.Role) (out []string) {
	for _, r := range roles {
		out = append(out, string(r))
	}
	return out
}

func codes() (out []string) {
	for _, d := range v1.Codes {
		out = append(out, d.Code)
	}
	return out
}

// OpenAPI is the API as an OpenAPI 3.1 document, made of Routes and the types of v1
// (docs/openapi.json). It names no version of the product: it changes with the API only.
func OpenAPI() []byte {
	b, err := json.MarshalIndent(describe(Routes), "", " ")
	if err != nil {
		panic("openapi: " + err.Error()) // maps of text and numbers
	}
	return append(b, '\n')
}

func openAPI(c *call) error {
	writeJSON(c.w, http.StatusOK, "application/json", json.RawMessage(c.o.openAPI()))
	return nil
}

// describer collects the schemas of types.
type describer struct {
	schemas object
	shown   map[reflect.Type]bool // types that some route answers with
}

func describe(routes []Route) object {
	d := &describer{schemas: object{}, shown: map[reflect.Type]bool{}}
	d.schema(reflect.TypeFor[v1.Problem](), false)
	for _, r := range routes {
		for _, out := range answers(&r) {
			d.schema(reflect.TypeOf(out), false)
		}
	}
	paths := object{}
	for i := range routes {
		r := &routes[i]
		path := strings.ReplaceAll(r.Path, "...}", "}")
		item, _ := paths[path].(object)
		if item == nil {
			item = object{}
			paths[path] = item
		}
		item[strings.ToLower(r.Method)] = d.operation(r, path)
	}
	responses := object{}
	for _, doc := range v1.Codes {
		name := "Problem" + strconv.Itoa(doc.Status)
		x, _ := responses[name].(object)
		if x == nil {
			x = object{"description": "", "content": object{"application/problem+json": object{"schema": ref("schemas", "Problem")}}}
			responses[name] = x
		} else {
			x["description"] = x["description"].(string) + "\n\n"
		}
		x["description"] = x["description"].(string) + "`" + doc.Code + "`: " + doc.Doc + "."
		if _, ok := retryAfter[doc.Code]; ok {
			x["headers"] = object{"Retry-After": object{"description": "seconds", "schema": object{"type": "string"}}}
		}
	}
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Holdfast operator API", "version": "v1",
			"description": "HA, power and fencing of KVM hosts. Any worker answers; an order about a host is passed on to the worker that owns it. Conventions: docs/api.md.",
			"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []object{{"url": "/", "description": "the worker that answers; there are several, try them in order"}},
		"paths":   paths,
		"components": object{
			"schemas": d.schemas, "responses": responses,
			"securitySchemes": object{
				"token":       object{"type": "http", "scheme": "bearer", "description": "a token made with POST /v1/auth/tokens"},
				"certificate": object{"type": "mutualTLS", "description": "a certificate of an operator of this fleet"},
			},
		},
	}
}

func answers(r *Route) (out []any) {
	done, dry := r.Answers()
	for _, x := range []any{done, dry} {
		if x != nil && (len(out) == 0 || reflect.TypeOf(out[0]) != reflect.TypeOf(x)) {
			out = append(out, x)
		}
	}
	return out
}

func ref(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }

func (d *describer) operation(r *Route, path string) object {
	op := object{
		"operationId": operationID(r.Method, path), "summary": r.Summary, "tags": []string{tag(path)},
		"responses": d.responses(r),
	}
	if role := roleShown(r); role != "" {
		op["security"] = []object{{"token": []string{role}}, {"certificate": []string{role}}}
	} else {
		op["security"] = []object{}
	}
	var params []object
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name, _, _ = strings.Cut(name, "}")
			p := object{"name": name, "in": "path", "required": true, "schema": object{"type": "string", "minLength": 1}}
			if name == "path" {
				p["description"] = "a name with slashes, which may be escaped"
			}
			params = append(params, p)
		}
	}
	for _, p := range r.Params() {
		x := object{"name": p.Name, "in": "query", "description": p.Doc, "schema": object{"type": "string"}}
		switch {
		case p.Header:
			x["in"] = "header"
		case p.Many:
			x["schema"] = object{"type": "array", "items": object{"type": "string"}}
		case p.Name == "limit":
			x["schema"] = object{"type": "integer", "minimum": 1, "maximum": maxLimit, "default": defaultLimit}
		case strings.HasPrefix(p.Doc, "`true`"):
			x["schema"] = object{"type": "boolean", "default": false}
		}
		params = append(params, x)
	}
	if r.Knows(watchParam.Name) {
		params = append(params, object{"name": "Last-Event-ID", "in": "header", "description": "with watch: go on after this id, which is a revision", "schema": object{"type": "string"}})
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	if r.In != nil {
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.schema(reflect.TypeOf(r.In), true)}}}
	}
	return op
}

func (d *describer) responses(r *Route) object {
	good := object{"description": "done"}
	var any []object
	for _, x := range answers(r) {
		any = append(any, d.schema(reflect.TypeOf(x), false))
	}
	content := object{}
	switch {
	case len(any) == 1:
		content["application/json"] = object{"schema": any[0]}
	case len(any) > 1:
		content["application/json"] = object{"schema": object{"anyOf": any, "description": "the second is that of a dry run"}}
	}
	if r.Knows(watchParam.Name) {
		content["text/event-stream"] = object{"schema": object{"type": "string", "description": "with watch: server-sent events; the last one may be `error`, a Problem"}}
	}
	if kind, ok := plainText[r.Path]; ok {
		content[kind] = object{"schema": object{}}
	}
	if len(content) > 0 {
		good["content"] = content
	}
	if done, _ := r.Answers(); done != nil {
		if _, ok := reflect.TypeOf(done).FieldByName("Revision"); ok && !isList(reflect.TypeOf(done)) {
			good["headers"] = object{"ETag": object{"description": "the revision that is there now, for If-Match", "schema": object{"type": "string"}}}
		}
	}
	out := object{"200": good}
	if done, _ := r.Answers(); done == nil && r.Changes() {
		good["description"] = "what a dry run would have done"
		out["204"] = object{"description": "done"}
	}
	for _, doc := range v1.Codes {
		if mayAnswer(r, doc.Code) {
			out[strconv.Itoa(doc.Status)] = ref("responses", "Problem"+strconv.Itoa(doc.Status))
		}
	}
	if r.Path == "/readyz" {
		out["503"] = object{"description": "not ready: why", "content": object{"text/plain": object{"schema": object{}}}}
	}
	return out
}

// mayAnswer says whether a route can answer with a code.
func mayAnswer(r *Route, code string) bool {
	switch code {
	case v1.CodeMethod:
		return false // it would be another route
	case v1.CodeNotFound:
		return strings.Contains(r.Path, "{") || r.Changes() || r.Knows("host") || r.Knows("scope") || r.Knows("without") || r.Path == "/metrics" || keeps(r)
	case v1.CodePrecondition:
		return r.Knows("If-Match")
	case v1.CodeKeyReused:
		return r.Knows(keyHeader)
	case v1.CodeConflict, v1.CodeRefused, v1.CodeDeviceFailed, v1.CodeTooLarge:
		return r.Changes()
	case v1.CodeCompacted:
		return r.Knows("after")
	case v1.CodeUnauthenticated, v1.CodeForbidden, v1.CodeRateLimited:
		return !open[r.Path]
	}
	return true
}

// keeps says whether a route needs a Keeper, which a worker may lack.
func keeps(r *Route) bool { return strings.HasPrefix(r.Scope, "trust:") }

// operationID is made of method and path: getHostsIdExplain.
func operationID(method, path string) string {
	var b strings.Builder
	b.WriteString(strings.ToLower(method))
	for _, word := range strings.FieldsFunc(strings.TrimPrefix(path, "/v1"), func(r rune) bool { return strings.ContainsRune("/{}:.-", r) }) {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

// tag is the first word of a path.
func tag(path string) string {
	word, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, "/v1"), "/"), "/")
	return word
}

func isList(t reflect.Type) bool { return strings.HasPrefix(t.Name(), "List[") }

// schema describes a type. In a request no field must be given (what is missing is the
// server's to complain about, in words) and none may be unknown; an answer has all fields
// that are not left out when they are empty.
func (d *describer) schema(t reflect.Type, in bool) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return d.schema(t.Elem(), in)
	case t.PkgPath() == "time" && t.Name() == "Time":
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem(), in)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem(), in)}
	case reflect.Struct:
		return ref("schemas", d.component(t, in))
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	}
	panic(fmt.Sprintf("openapi: type %s has no schema", t)) // a table at init
}

// component describes a struct once. A type that is answered, too, is named apart in
// requests.
func (d *describer) component(t reflect.Type, in bool) string {
	name := t.Name()
	if isList(t) {
		name = t.Field(0).Type.Elem().Name() + "List"
	}
	if !in {
		d.shown[t] = true
	} else if d.shown[t] {
		name += "Input"
	}
	if _, ok := d.schemas[name]; ok {
		return name
	}
	s := object{"type": "object"}
	d.schemas[name] = s // before its fields, which may lead back to it
	fields, required := object{}, []string{}
	d.fields(t, in, t.Name(), fields, &required)
	s["properties"] = fields
	switch {
	case in:
		s["additionalProperties"] = false
	case len(required) > 0:
		slices.Sort(required)
		s["required"] = required
	}
	return name
}

func (d *describer) fields(t reflect.Type, in bool, owner string, fields object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case f.Anonymous && name == "": // its fields are ours
			d.fields(f.Type, in, owner, fields, required)
			continue
		}
		name = cmp.Or(name, f.Name)
		s := d.schema(f.Type, in)
		left := strings.Contains(opts, "omit")
		if values := closed[owner+"."+name]; values != nil && (in || owner == "Problem") {
			s["enum"] = values
		}
		if kind, ok := s["type"].(string); ok && !left && (f.Type.Kind() == reflect.Slice || f.Type.Kind() == reflect.Map) && name != "items" {
			s["type"] = []string{kind, "null"} // nothing in it
		}
		fields[name] = s
		if !left {
			*required = append(*required, name)
		}
	}
}
