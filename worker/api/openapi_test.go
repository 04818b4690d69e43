// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	verrors "github.com/pb33f/libopenapi-validator/errors"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// described is a document with the validator that is not ours: of the document against the
// schema of OpenAPI 3.1, of requests and answers against the document.
type described struct {
	validator.Validator
	doc *v3.Document
}

func reader(text []byte) (*described, error) {
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions(), config.WithoutSecurityValidation())
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return &described{v, &model.Model}, nil
}

// strict is the document with every answer's fields made the only ones: clients have to
// live with new ones, we are to know all of them.
var strict = sync.OnceValues(func() (*described, error) {
	var doc map[string]any
	if err := json.Unmarshal(api.OpenAPI(), &doc); err != nil {
		return nil, err
	}
	for _, s := range doc["components"].(map[string]any)["schemas"].(map[string]any) {
		s.(map[string]any)["additionalProperties"] = false
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return reader(text)
})

func failures(errs []*verrors.ValidationError) string {
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "\n  %s: %s", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			fmt.Fprintf(&b, "\n    %s: %s", s.FieldPath, s.Reason)
		}
	}
	return b.String()
}

// The document is one of OpenAPI 3.1, and has every route with a name of its own.
func TestOpenAPIIsValid(t *testing.T) {
	v, err := reader(api.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		t.Fatalf("not an OpenAPI document:%s", failures(errs))
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Security    []map[string][]string
			Responses   map[string]any
		}
	}
	if err := json.Unmarshal(api.OpenAPI(), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("version %q, %v", doc.OpenAPI, err)
	}
	ids := map[string]bool{}
	for _, r := range api.Routes {
		op, ok := doc.Paths[strings.ReplaceAll(r.Path, "...}", "}")][strings.ToLower(r.Method)]
		if !ok || op.OperationID == "" || ids[op.OperationID] {
			t.Errorf("%s %s: missing, or its operationId %q is not its own", r.Method, r.Path, op.OperationID)
		}
		ids[op.OperationID] = true
		if probe := r.Path == "/healthz" || r.Path == "/readyz"; !probe && (len(op.Security) == 0 || op.Security[0]["token"][0] != string(r.Role())) {
			t.Errorf("%s %s: security %v, it needs %s", r.Method, r.Path, op.Security, r.Role())
		}
	}
	for path, item := range doc.Paths {
		for method := range item {
			ids[path+method] = true
		}
	}
	if len(ids) != 2*len(api.Routes) {
		t.Errorf("%d operations for %d routes", len(ids)-len(api.Routes), len(api.Routes))
	}
}

// request is a case as generated clients send it: a name with slashes is one segment.
func (c routeCase) request(query string) *http.Request {
	target := c.target
	for _, r := range api.Routes {
		path, q, _ := strings.Cut(target, "?")
		if base, ok := strings.CutSuffix(strings.Split(r.Path, ":")[0], "{path...}"); ok && strings.HasPrefix(path, base) {
			target = base + strings.ReplaceAll(strings.TrimPrefix(path, base), "/", "%2F")
			if q != "" {
				target += "?" + q
			}
		}
	}
	if query != "" {
		target += map[bool]string{true: "&", false: "?"}[strings.Contains(target, "?")] + query
	}
	r := httptest.NewRequest(c.method, target, strings.NewReader(c.body))
	r.RemoteAddr = "10.1.1.1:999"
	if c.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(c.headers); i += 2 {
		r.Header.Set(c.headers[i], c.headers[i+1])
	}
	return r
}

// elsewhere are answers to what no route is for: the document does not know them.
func (c routeCase) elsewhere() bool {
	return c.code == v1.CodeMethod || strings.HasPrefix(c.target, "/v2/") || c.method == http.MethodHead
}

// checked asks and compares the answer with the document; good requests as well.
func checked(t *testing.T, h http.Handler, c routeCase, query string) *httptest.ResponseRecorder {
	t.Helper()
	v, err := strict()
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, c.request(query))
	path := strings.ReplaceAll(c.route(t).Path, "...}", "}")
	item, ok := v.doc.Paths.PathItems.Get(path)
	if !ok {
		t.Fatalf("%s is not described", path)
	}
	if ok, errs := v.GetResponseBodyValidator().ValidateResponseBodyWithPathItem(c.request(query), w.Result(), item, path); !ok {
		t.Errorf("answer %d %.500s is not as described:%s", w.Code, w.Body, failures(errs))
	}
	if w.Code >= 300 {
		return w
	}
	params := v.GetParameterValidator()
	_, body := v.GetRequestBodyValidator().ValidateRequestBodyWithPathItem(c.request(query), item, path)
	_, q := params.ValidateQueryParamsWithPathItem(c.request(query), item, path)
	_, head := params.ValidateHeaderParamsWithPathItem(c.request(query), item, path)
	if errs := slices.Concat(body, q, head); len(errs) > 0 {
		t.Errorf("a good request is not as described:%s", failures(errs))
	}
	return w
}

// route is the row that a case is about.
func (c routeCase) route(t *testing.T) *api.Route {
	t.Helper()
	path, _, _ := strings.Cut(c.target, "?")
	for i := range api.Routes {
		if r := &api.Routes[i]; r.Method == c.method && matches(r.Path, path) {
			return r
		}
	}
	t.Fatalf("%s %s: no such route", c.method, c.target)
	return nil
}

// Whatever a route answers, well or not, is as the document says; every error is a Problem
// whose code is in the table, with that code's status.
func TestAnswersAreAsDescribed(t *testing.T) {
	statuses := map[string]int{}
	for _, d := range v1.Codes {
		statuses[d.Code] = d.Status
	}
	for _, c := range routeCases() {
		t.Run(c.name, func(t *testing.T) {
			_, h := served()
			w := httptest.NewRecorder()
			if c.elsewhere() {
				h.ServeHTTP(w, c.request(""))
			} else {
				w = checked(t, h, c, "")
			}
			if w.Code < 400 {
				return
			}
			var p v1.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Header().Get("Content-Type") != "application/problem+json" || statuses[p.Code] != w.Code || p.Status != w.Code {
				t.Errorf("%d %s %s is no problem of the table: %v", w.Code, w.Header().Get("Content-Type"), w.Body, err)
			}
		})
	}
}

// A dry run of every change is answered as the document says and changes nothing.
func TestEveryChangeHasADryRun(t *testing.T) {
	done := map[string]bool{}
	for _, c := range routeCases() {
		if c.status >= 300 || c.method == http.MethodGet || c.method == http.MethodHead || strings.Contains(c.target, "dryRun") {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			f, h := served()
			if w := checked(t, h, c, "dryRun=true"); w.Code != http.StatusOK || len(f.Noted()) > 0 {
				t.Errorf("%d %s, written: %v", w.Code, w.Body, f.Noted())
			}
		})
		r := c.route(t)
		done[r.Method+r.Path] = true
	}
	for _, r := range api.Routes {
		if r.Changes() && !done[r.Method+r.Path] {
			t.Errorf("%s %s: no dry run was tried, routeCases has no good request", r.Method, r.Path)
		}
	}
}

// Every list comes in pages.
func TestEveryListHasPages(t *testing.T) {
	for _, r := range api.Routes {
		if out := fmt.Sprintf("%T", r.Out); strings.HasPrefix(out, "v1.List[") && !r.Changes() && !(r.Knows("limit") && r.Knows("after")) {
			t.Errorf("%s %s answers a %s without limit and after", r.Method, r.Path, out)
		}
	}
}

// A condition that does not hold is 412, with the ETag that is there; it is refused where
// nobody would look at it.
func TestEveryConditionIsLookedAt(t *testing.T) {
	for _, c := range routeCases() {
		if c.status >= 300 || c.method == http.MethodGet || c.method == http.MethodHead {
			continue
		}
		f, h := served()
		c.headers = []string{"If-Match", `"99999"`}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, c.request(""))
		want := http.StatusBadRequest
		if c.route(t).Knows("If-Match") {
			want = http.StatusPreconditionFailed
		}
		if w.Code != want || len(f.Noted()) > 0 {
			t.Errorf("%s: %d %s, want %d; written: %v", c.name, w.Code, w.Body, want, f.Noted())
		}
	}
}
