// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"reflect"
	"testing"
	"time"
)

// TestSame: a copy is the same record, and no field, nor one inside of it that is no pointer,
// can change unnoticed.
func TestSame(t *testing.T) {
	full := func() Record {
		var r Record
		for _, f := range parts(reflect.ValueOf(&r).Elem(), "") {
			other(f.v)
		}
		return r
	}
	a := full()
	if b := a; !a.Same(&b) || !new(Record).Same(new(Record)) {
		t.Error("a copy is not the same")
	}
	seen := 0
	for i := range parts(reflect.ValueOf(new(Record)).Elem(), "") {
		empty, changed := Record{}, a
		e, c := parts(reflect.ValueOf(&empty).Elem(), "")[i], parts(reflect.ValueOf(&changed).Elem(), "")[i]
		other(e.v)
		other(c.v)
		if empty.Same(new(Record)) || changed.Same(&a) {
			t.Errorf("%s changes unnoticed", e.name)
		}
		seen++
	}
	if seen < reflect.TypeFor[Record]().NumField() {
		t.Errorf("%d parts of %d fields", seen, reflect.TypeFor[Record]().NumField())
	}
}

type part struct {
	name string
	v    reflect.Value
}

// parts are the fields of a struct, those of structs in it one by one.
func parts(v reflect.Value, name string) (out []part) {
	if v.Kind() != reflect.Struct || v.Type() == reflect.TypeFor[time.Time]() {
		return []part{{name, v}}
	}
	for i := range v.NumField() {
		out = append(out, parts(v.Field(i), name+"."+v.Type().Field(i).Name)...)
	}
	return out
}

// other gives v another value.
func other(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8:
		v.SetUint(v.Uint() + 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	default:
		if at, ok := v.Interface().(time.Time); ok {
			v.Set(reflect.ValueOf(at.Add(time.Hour)))
			return
		}
		panic("no other value for " + v.Type().String())
	}
}
