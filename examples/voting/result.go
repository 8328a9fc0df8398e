package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	_ "github.com/lib/pq" // the driver "postgres"
)

// result serves the number of votes for each choice.
func result(ctx context.Context) error {
	db, err := openDatabase()
	if err != nil {
		return err
	}
	defer db.Close()
	return serve(ctx, func(w http.ResponseWriter, r *http.Request) {
		var a, b int
		err := db.QueryRowContext(r.Context(), "SELECT count(*) FILTER (WHERE choice = 'a'), count(*) FILTER (WHERE choice = 'b') FROM votes").Scan(&a, &b)
		if err != nil {
			http.Error(w, "the database does not count: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "a=%d b=%d\n", a, b)
	})
}

// openDatabase prepares connections to the database, whose password stands in the file that POSTGRES_PASSWORD_FILE names.
func openDatabase() (*sql.DB, error) {
	password, err := os.ReadFile(os.Getenv("POSTGRES_PASSWORD_FILE"))
	if err != nil {
		return nil, fmt.Errorf("the database's password: %w", err)
	}
	user := url.UserPassword("postgres", strings.TrimSpace(string(password)))
	at := url.URL{Scheme: "postgres", Host: "db", Path: "/postgres", User: user, RawQuery: "sslmode=disable&connect_timeout=3"}
	return sql.Open("postgres", at.String())
}
